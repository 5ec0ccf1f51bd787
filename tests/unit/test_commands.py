"""The scripts as commands: all options are explained, help prints nothing else, and ``gateau`` runs scripts by name."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateau import cli
from gateau.command import argument_parser

from helpers import ROOT, run_script

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


class Parsed(Exception):
    """A script has built its parser; ``args[0]`` is the parser."""


def parser_of(script, monkeypatch):
    """Return the parser that a script's main() builds, without running the rest."""

    def stop(parser, *arguments, **options):
        raise Parsed(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    spec = importlib.util.spec_from_file_location(f"command_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with pytest.raises(Parsed) as caught:
        module.main()
    return caught.value.args[0]


def explained(parser, action):
    """Return the help of an option as it is printed."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_option_has_a_help_text_that_shows_its_default(script, monkeypatch):
    parser = parser_of(script, monkeypatch)
    assert parser.description
    unexplained = [action.dest for action in parser._actions if not explained(parser, action).strip()]
    assert not unexplained, "options without a help text"
    silent = [
        action.dest
        for action in parser._actions
        if action.option_strings
        and action.default not in (None, "", [], (), argparse.SUPPRESS)
        and not isinstance(action.default, bool)
        and "(default" not in explained(parser, action)
    ]
    assert not silent, "options that do not show their default; gateau.command.argument_parser adds it"


def test_the_parser_shows_defaults_and_keeps_line_breaks():
    parser = argument_parser("First line.\n\nSecond line.")
    parser.add_argument("--number", type=int, default=0, help="a number")
    parser.add_argument("--told", default=5, help="told (default: five)")
    parser.add_argument("--flag", action="store_true", help="a flag")
    parser.add_argument("--name", help="a name")
    parser.add_argument("--names", nargs="*", default=[], help="names")
    text = parser.format_help()
    assert "First line.\n\nSecond line." in text
    assert "a number (default: 0)" in text
    assert text.count("(default") == 2


def test_help_prints_nothing_else():
    for option in ("--help", "-h"):
        result = run_script("verify", option)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("usage: verify.py")
        assert "INFO" not in result.stdout
    assert "INFO running on " in run_script("verify", "nowhere").stderr


def gateau(*arguments):
    """Run the console command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gateau.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
    )


def test_gateau_lists_what_people_run_by_hand():
    result = gateau("--help")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for command in cli.COMMANDS:
        assert any(line.startswith(f"  {command} ") and len(line.split()) > 3 for line in lines), command
    for path in [*(cli.SCRIPTS / name for name in cli.STANDALONE), ROOT / "workflow/Snakefile"]:
        assert str(path) in result.stdout
        assert path.is_file()
    assert {path.name for path in SCRIPTS if path.name.startswith("score_")} < set(cli.STANDALONE)


@pytest.mark.parametrize("command", ["verify", "lease"])
def test_gateau_runs_a_script_under_its_own_name(command):
    result = gateau(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: gateau {command} ")


def test_arguments_and_exit_codes_are_those_of_the_script(tmp_path):
    result = gateau("verify", tmp_path)
    assert result.returncode == 1
    assert "no manifest.json" in result.stderr
    result = gateau("lease", "--gpus", 0, "--", "sh", "-c", "echo done; exit 7")
    assert (result.returncode, result.stdout) == (7, "done\n")


def test_gateau_refuses_an_unknown_command_and_says_its_version():
    for arguments in (("verfy", "x"), ()):
        result = gateau(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert all(command in result.stderr for command in cli.COMMANDS) or not arguments
    assert gateau("--version").stdout.startswith("gateau ")


def test_the_console_command_runs_the_checkout_and_no_copy_of_it():
    code = "import gateau.places; print(gateau.places.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert "site-packages" not in result.stdout
    command = Path(sys.executable).parent / "gateau"
    assert subprocess.run([command, "--help"], cwd="/", capture_output=True, check=False).returncode == 0
