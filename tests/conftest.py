"""Fixtures that all tests share."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers that each use all cores slow each other down tenfold
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from helpers import ROOT, TINY_PAIR


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The committed pair's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_PAIR / "long")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A working directory with copies of the workflow's own files, free to be edited."""
    for name in ("workflow", "config", "scripts", "profiles", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, so that no worker is left alone with one at the end."""
    names = (
        "cluster", "dag", "documents", "evaluation", "harness", "finetuning", "methods", "serving", "gpu_leases",
        "suite", "memory", "hub_data", "module", "presets", "screen", "hostile", "estimates", "soak", "stored",
        "fifth_benchmark",
    )  # fmt: skip
    order = [f"test_{name}.py" for name in names]
    items.sort(key=lambda item: order.index(item.path.name) if item.path.name in order else len(order))
