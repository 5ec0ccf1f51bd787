"""What the documents contain, and a place where their commands can be planned."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateau.config_files import completed
from gateau.experiments import Configuration

from helpers import ROOT, TINY_PAIR, row, write_jsonl

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "profiles/README.md"]
DOCUMENTS += sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))
# options of snakemake that show something in place of a dry run
SHOWS = ("-n", "--dry-run", "--summary", "--rulegraph", "--unlock")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- not run: (.+?) -->\n$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its document, its line there, its language, its text, and why it is not run, if so."""

    document: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, match[1], match[2], mark and mark[1]))
    return found


def prose_of(document: str) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def commands_of(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block. A backslash continues a line."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
RUN = [block for block in BLOCKS if not block.reason]


# --- a folder for each document, with the files that it names ---


def stand_in_model(folder: Path, window: int) -> None:
    """Make a model directory: the tiny model under the window of the model whose place it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (TINY_PAIR / "long").iterdir():
        if not (folder / file.name).exists() and file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((TINY_PAIR / "long/config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": window}))


def substituted(value: Any, root: Path) -> Any:
    """Return a part of a configuration with absolute paths moved below ``root``."""
    if isinstance(value, dict):
        return {key: substituted(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [substituted(inner, root) for inner in value]
    return f"{root}{value}" if isinstance(value, str) and value.startswith("/") else value


def write_config(config: dict[str, Any], file: Path, root: Path) -> None:
    """Write a document's configuration, and make the local data and models that it names."""
    config = substituted(config, root)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config))
    config = config.get("gateau", config)
    given = config.get("models", {})
    evaluated = config.get("evaluate", {}).get("models", {})
    for role, value in [*given.items(), *evaluated.items()]:
        path = value.get("path") if isinstance(value, dict) else value
        if path and path.startswith("/"):
            stand_in_model(Path(path), 4096 if role == "short" else 65536)
    if config.get("data", {}).get("planted"):
        return
    for source in ("long", "short"):
        value = config.get("data", {}).get(source) or []
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, dict):  # on the hub
                continue
            place = root / "work" / path  # an absolute path stays as it is
            if path != "none" and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_jsonl(place, [row("A long context.\n\nWhat?", id="1")])


def make_workplace(root: Path) -> Path:
    """Return a working directory that looks like a checkout, with stand-ins for what the presets name."""
    work = root / "work"
    work.mkdir(parents=True)
    for name in ("workflow", "scripts", "profiles", "envs"):
        (work / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "config", work / "config")
    for preset in (work / "config").rglob("presets/*.yaml"):
        write_config(yaml.safe_load(preset.read_text()), preset, root)
    return work


def name_of(block: Block) -> str | None:
    """Return the file that a block of YAML is, which is its first line: ``# my.yaml``."""
    found = re.match(r"# ([\w-]+\.yaml)\n", block.text)
    return found and found[1]


# --- planning: all runs of snakemake in one process, which forks for each of them ---

_PLANNER = """
import json, os, sys, traceback
import jsonschema, pulp, snakemake.cli, snakemake.dag, snakemake.workflow
results = []
for folder, arguments in json.load(sys.stdin):
    log = f"{folder}/plan.log"
    if os.fork() == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        try:
            snakemake.cli.main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    with open(log, encoding="utf-8") as file:
        results.append([code, file.read()])
print(json.dumps(results))
"""


@dataclass
class Plans:
    """The calls of snakemake in all documents: what is asked for, and what came of it."""

    wanted: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    results: dict[tuple[str, ...], tuple[int, str]] = field(default_factory=dict)

    def add(self, block: Block, folder: Path, arguments: list[str]) -> None:
        self.wanted.setdefault((str(folder), *arguments), []).append(str(block))

    def run(self) -> None:
        jobs = [(key[0], key[1:]) for key in self.wanted]
        command = [sys.executable, "-c", _PLANNER]
        process = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        self.results = dict(zip(self.wanted, json.loads(process.stdout), strict=True))


def planned_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments of snakemake that show what a documented command does, without doing it."""
    arguments = list(arguments)
    if "--report" in arguments:  # a report needs a finished run
        place = arguments.index("--report")
        del arguments[place : place + 2]
    shows = any(option in arguments for option in SHOWS)
    quiet = [] if {"--summary", "--rulegraph", "--unlock"} & set(arguments) else ["--quiet", "rules"]
    cores = [] if "--workflow-profile" in arguments else ["--cores", "1"]
    return [*arguments, *([] if shows else ["--dry-run"]), *quiet, *cores]


def plan_documents(folder: Path) -> Plans:
    """Return all documented calls of snakemake, and all whole configurations, planned below ``folder``."""
    found = Plans()
    for document in DOCUMENTS:
        root = folder / document.replace("/", "_")
        work = make_workplace(root)
        blocks = [block for block in RUN if block.document == document]
        for block in blocks:
            if block.language == "yaml" and (name := name_of(block)):
                write_config(yaml.safe_load(block.text), work / name, root)
                if is_whole(own_part(block)):
                    found.add(block, work, planned_arguments(["--configfile", name]))
            elif block.language == "python" and "module gateau:" in block.text:
                add_module(found, block, work)
            elif not block.language:
                for command, *arguments in commands_of(block):
                    if command == "cp":
                        shutil.copy(*(work / path for path in arguments))
                    if command == "snakemake":
                        found.add(block, work, planned_arguments(arguments))
    found.run()
    return found


def own_part(block: Block) -> dict[str, Any]:
    """Return a block's configuration of this workflow, also if it is a part of that of another workflow."""
    config = yaml.safe_load(block.text)
    return dict(config.get("gateau", config))


def is_whole(config: dict[str, Any]) -> bool:
    """Return whether a configuration can run as it is. Others are parts that show some keys."""
    configuration = Configuration(completed(config))
    return not configuration.unset and bool(configuration.needs_rows or configuration.config["evaluate"]["models"])


def add_module(found: Plans, block: Block, work: Path) -> None:
    """Plan a workflow that uses this one as a module, as a document shows it."""
    text = block.text.replace("../gateau/workflow/Snakefile", str(ROOT / "workflow/Snakefile"))
    assert text != block.text
    (work / "Snakefile").write_text(text)
    found.add(block, work, planned_arguments(["--snakefile", "Snakefile", "report"]))
