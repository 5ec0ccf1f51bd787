"""The documents: every command block is run or planned, every link leads somewhere, every named key and file exists."""

import ast
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateau.cli import COMMANDS
from gateau.config_files import completed, with_defaults
from gateau.config_schema import first_problem, known_keys, read_schema
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration

from helpers import ROOT, merged
from unit.documents import BLOCKS, DOCUMENTS, FENCE, RUN, commands_of, own_part, plan_documents, prose_of

MESSAGES = "docs/troubleshooting.md"
NOT_RUN = 1  # blocks that no test runs; each states its reason in the document
LANGUAGES = ("", "text", "yaml", "json", "python", "mermaid")
# commands of other programs: they are not run, and neither are their files checked
FOREIGN = ("cd", "export", "git", "hf", "ln", "mkdir", "pip", "scancel", "tail", "touch", "vllm")

_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MESSAGE = re.compile(r"^\| `(.+?)` \|", re.M)  # the first column of the page of messages
_KEY = re.compile(r"([a-z_]+(?:\.[A-Za-z0-9_<>-]+)+)(?:: (.+))?")
_FILE = re.compile(r"(?:scripts|config|workflow|docs|tests|profiles|envs)/[\w./-]+")
_SUFFIXES = (".parquet", ".py", ".md", ".json", ".jsonl", ".smk", ".yaml", ".png", ".html", ".txt", ".csv")


@pytest.mark.workflow
def test_every_documented_run_can_be_planned(tmp_path):
    plans = plan_documents(tmp_path)
    failed = [
        f"{', '.join(places)}: snakemake {shlex.join(key[1:])}\n{plans.results[key][1][-2000:]}"
        for key, places in plans.wanted.items()
        if plans.results[key][0] != 0
    ]
    assert not failed, "\n\n".join(failed)
    assert len(plans.wanted) > 20


# --- blocks ---


def test_blocks_have_a_language_that_is_checked():
    assert {str(block): block.language for block in BLOCKS if block.language not in LANGUAGES} == {}


def test_few_blocks_are_not_run():
    reasons = {str(block): block.reason for block in BLOCKS if block.reason}
    assert len(reasons) == NOT_RUN, reasons


@pytest.mark.parametrize("block", [one for one in RUN if one.language == "yaml"], ids=str)
def test_configurations_follow_the_schema(block):
    known = {"data": {"long": "rows.jsonl"}, "models": {"long": "org/long-model"}}
    config = merged(known, own_part(block))
    configuration = Configuration(completed(without_local_paths(config)))
    configuration.check()
    Evaluation(configuration).check()


def without_local_paths(value: Any) -> Any:
    """Return a part of a configuration with names on the hub in place of absolute paths, which do not exist here."""
    if isinstance(value, dict):
        return {key: without_local_paths(inner) for key, inner in value.items()}
    return value.replace("/", "_") if isinstance(value, str) and value.startswith("/") else value


@pytest.mark.parametrize("block", [one for one in RUN if one.language in ("json", "python")], ids=str)
def test_examples_of_code_and_data_can_be_parsed(block):
    if block.language == "json":
        json.loads(block.text)
    elif "module gateau:" not in block.text:
        ast.parse(block.text)


@pytest.mark.parametrize("block", [one for one in RUN if one.language == "mermaid"], ids=str)
def test_the_picture_of_the_workflow_shows_its_rules(block):
    data = set(re.findall(r"(\w+)\[\(", block.text))
    text = re.sub(r'\[.*?\]|\|.*?\||"[^"]*"', "", block.text.split("\n", 1)[1])
    nodes = set(re.findall(r"[a-z_]\w+", text)) - data
    assert nodes
    assert nodes <= rules()


@cache
def rules() -> set[str]:
    texts = [file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")]
    return set(re.findall(r"^ *rule (\w+):", "".join(texts), re.M))


# --- commands ---


def check_command(words: list[str]) -> None:
    """Check that a command exists, with all its options; snakemake is planned elsewhere."""
    command, *arguments = words
    if command == "make":
        assert set(arguments) <= targets(), f"make {arguments}"
    elif command == "gateau":
        name, *rest = arguments
        assert name in {*COMMANDS, "--help", "--version"}, f"gateau {name}"
        if name in COMMANDS:
            check_script(f"scripts/{COMMANDS[name]}", rest)
    elif command == "python" and arguments[:2] == ["-m", "pytest"]:
        assert all((ROOT / path).exists() for path in arguments if "/" in path), arguments
    elif command == "python":
        check_script(arguments[0], arguments[1:])
    elif command == "cp":
        assert (ROOT / arguments[0]).is_file(), arguments
    elif command == ".":
        assert arguments == [".venv/bin/activate"]
    else:
        assert command in ("snakemake", *FOREIGN), f"{command}: mark the block as not run, or add a check"


def check_script(script: str, arguments: list[str]) -> None:
    """Check that a script has the options that it is given."""
    if "--" in arguments:
        place = arguments.index("--")
        check_command(arguments[place + 1 :])
        arguments = arguments[:place]
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    unknown = options - options_of(script)
    assert not unknown, f"{script} has no {', '.join(sorted(unknown))}"


@cache
def options_of(script: str) -> set[str]:
    command = [sys.executable, str(ROOT / script), "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z-]*", help_text))


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("block", [one for one in RUN if not one.language], ids=str)
def test_commands_exist_with_all_their_options(block):
    commands = list(commands_of(block))
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_text_exist(document):
    for span in _SPAN.findall(prose_of(document)):
        if re.match(r"(make|gateau) [a-z]", span):
            check_command(shlex.split(span))


# --- links, keys, files, messages ---


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "config/README.md"])
def test_links_lead_somewhere(document):
    for target in _LINK.findall(prose_of(document)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_configuration_keys_exist(document):
    keys = known_keys(read_schema())
    patterns = [re.compile(re.escape(key).replace("<name>", r"[\w<>-]+")) for key in keys]
    sections, names = {key.partition(".")[0] for key in keys}, {key.rpartition(".")[2] for key in keys}
    prose = prose_of(document)
    for span in _SPAN.findall(_MESSAGE.sub("", prose) if document == MESSAGES else prose):
        match = _KEY.fullmatch(span)
        if match and match[1].partition(".")[0] in sections and not match[1].endswith(_SUFFIXES):
            assert any(pattern.fullmatch(match[1]) for pattern in patterns), span
            if match[2]:
                check_value(match[1].split("."), match[2])
        elif name := re.fullmatch(r"([a-z_]+): [\w.{\[\"]+.*", span):
            assert name[1] in names, span


def check_value(path: list[str], text: str) -> None:
    """Check that a key may have the value that a document gives it."""
    value = yaml.safe_load(text)
    for part in reversed(path):
        value = {part: value}
    problem = first_problem(with_defaults(value))
    assert problem is None, problem


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_the_text_exist(document):
    for span in _SPAN.findall(prose_of(document)):
        if _FILE.fullmatch(span):
            assert (ROOT / span).exists(), span


@cache
def messages() -> str:
    """Return all texts of the code, with ``…`` where a value stands, and those of the rules."""
    rule_files = (ROOT / "workflow/rules").glob("*.smk")
    found = [re.sub(r'"\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in rule_files]
    for file in (ROOT / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return re.sub(r"\{[^{}]*\}", "…", "\n".join(found))


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    rows = _MESSAGE.findall(prose_of(MESSAGES))
    assert len(rows) > 40
    unknown = []
    for message in rows:
        parts = [part.strip(" :;,.()") for part in message.split("…")]
        unknown += [(message, part) for part in parts if len(part) > 3 and part not in messages()]
    assert not unknown


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
