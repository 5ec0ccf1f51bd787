"""Scripts start quickly: ``--help`` imports nothing heavy, and only scripts that compute with a model import torch."""

import json
import os
import subprocess
import sys

import pytest

from helpers import ROOT, TINY_PAIR

MAKERS = {"small_benchmarks", "train_tiny_pair"}  # they made files of this repository; no rule runs them
SCRIPTS = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - MAKERS)
HEAVY = ["torch", "transformers", "numpy", "pandas", "matplotlib", "scipy", "sklearn", "datasets", "openai", "pyarrow"]
MOST_MODULES = 270  # a count, because a time differs between machines; Python itself and argparse make about 100
# scripts that compute with a model; all others do without torch and the code of the models
WITH_MODEL = {
    "chat", "contrast_pass", "doctor", "embeddings", "estimate", "generate", "harness", "long_pass", "miniature_runs",
    "rewards", "segment_pass", "short_pass", "train",
}  # fmt: skip
# Asks every script for its help in a child of its own, which inherits an interpreter without any import, and prints
# the number of modules that are loaded then, and the heavy ones among them.
ASK_FOR_HELP = """
import contextlib, io, json, os, runpy, sys
folder, heavy = sys.argv[1], sys.argv[2].split()
sys.path.insert(0, folder)
for name in sys.argv[3:]:
    if not os.fork():
        sys.argv = [os.path.join(folder, name + ".py"), "--help"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
        found = [module for module in heavy if module in sys.modules]
        print(json.dumps([name, len(sys.modules), found]), flush=True)
        os._exit(0)
    os.wait()
"""
# Executes every import of a script, also those inside functions, and names the first script that loads a module.
IMPORT_ALL = """
import ast, pathlib, sys
folder, module = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(folder))
for name in sys.argv[3:]:
    tree = ast.parse((folder / (name + ".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), name, "exec"), {})
    if module in sys.modules:
        sys.exit(name + " imports " + module)
"""


def python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def helps():
    lines = python(ASK_FOR_HELP, str(ROOT / "scripts"), " ".join(HEAVY), *SCRIPTS).splitlines()
    return {name: (loaded, heavy) for name, loaded, heavy in map(json.loads, lines)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_little_and_nothing_heavy(helps, script):
    loaded, heavy = helps[script]
    assert heavy == []
    assert loaded <= MOST_MODULES


def test_scripts_without_a_model_import_no_model_library():
    python(IMPORT_ALL, str(ROOT / "scripts"), "torch", *sorted(set(SCRIPTS) - WITH_MODEL))


def test_a_tokenizer_loads_without_torch_and_is_the_one_that_transformers_chooses(tmp_path):
    place = str(TINY_PAIR / "long")
    python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gateau.model_files import ModelSpec\n"
        "from gateau.models import load_tokenizer, tokenizer_digest\n"
        "tokenizer = load_tokenizer(ModelSpec(sys.argv[2]))\n"
        "assert 'torch' not in sys.modules\n"
        "from transformers import AutoTokenizer\n"
        "other = AutoTokenizer.from_pretrained(sys.argv[2])\n"
        "assert type(other) is type(tokenizer)\n"
        "assert tokenizer_digest(other) == tokenizer_digest(tokenizer)\n"
        "tokenizer.save_pretrained(sys.argv[3] + '/plain')\n"
        "other.save_pretrained(sys.argv[3] + '/auto')\n",
        *(str(ROOT / "scripts"), place, str(tmp_path)),
    )
    names = sorted(os.listdir(tmp_path / "auto"))
    assert sorted(os.listdir(tmp_path / "plain")) == names
    assert all((tmp_path / "plain" / name).read_bytes() == (tmp_path / "auto" / name).read_bytes() for name in names)
