"""The console command ``gateau``: everything that people run by hand, under one name.

``gateau doctor`` runs ``scripts/doctor.py`` in this process, with the arguments that follow. The rules' scripts stay
separate files, because each rule tracks the code of its own script.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import types
from collections.abc import Sequence
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path

from gateau.places import DEFAULT_CONFIG, ROOT, SCRIPTS

COMMANDS = {
    **{name: f"{name}.py" for name in ("doctor", "estimate", "chat", "verify")},
    "report": "report_page.py",
    "lease": "gpu_lease.py",
}
# rule scripts that also work on files made elsewhere
STANDALONE = (*sorted(path.name for path in SCRIPTS.glob("score_*.py")), "judge.py", "sensitivity.py")
_SNAKEFILE = ROOT / "workflow/Snakefile"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command of :data:`COMMANDS` with the arguments that follow it; exit with code 2 if it does not exist.

    Args:
        arguments: what follows ``gateau`` on the command line; ``sys.argv`` if None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        _parser().parse_args(given[:1])  # prints help, version or an error, and exits
    command, *rest = given
    _run_script(SCRIPTS / COMMANDS[command], [f"gateau {command}", *rest])


def _run_script(path: Path, arguments: list[str]) -> None:
    """Run a script as the main module of this process, with ``arguments`` as its ``sys.argv``.

    :func:`runpy.run_path` is not used, because it replaces ``sys.argv[0]``, the name in usage lines, by the path.
    """
    sys.argv = arguments
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    loader = SourceFileLoader("__main__", str(path))
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    loader.exec_module(module)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateau",
        usage="gateau [-h] [--version] COMMAND [ARGUMENTS ...]",
        description=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"gateau {_version()}", help="print the version and exit"
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=f"one of {', '.join(COMMANDS)}")
    return parser


def _overview() -> str:
    """Return the description that ``gateau --help`` prints."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:{width}}  {_summary(SCRIPTS / script)}" for name, script in COMMANDS.items()]
    scripts = [f"  {SCRIPTS / name}\n      {_summary(SCRIPTS / name)}" for name in STANDALONE]
    return "\n".join(
        [
            "Select long-context training data, train on it and evaluate: tools beside the Snakemake workflow.",
            "",
            "commands (gateau COMMAND --help describes each):",
            *commands,
            "",
            "scripts that also work on files made elsewhere (python SCRIPT --help):",
            *scripts,
            "",
            "files of the workflow, for `snakemake --snakefile` or a `module` of your own workflow:",
            f"  Snakefile              {_SNAKEFILE}",
            f"  default configuration  {DEFAULT_CONFIG}",
        ]
    )


def _summary(script: Path) -> str:
    """Return the first line of a script's docstring, without the name of its rule."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    summary = re.sub(r"^Rule ``\w+``: ", "", text.partition("\n")[0])
    return summary[:1].upper() + summary[1:]


def _version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("gateau-workflow")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
