"""Fixtures that all tests share."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
