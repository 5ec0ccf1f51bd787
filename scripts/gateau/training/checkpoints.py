"""Checkpoints that can be trusted: one folder per training, keyed by all that changes its result, complete or ignored.

A checkpoint counts only once its marker stands, which lists every file with its size and is written last. The folder
lies outside the rule's declared outputs, because Snakemake deletes those of a failed job.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateau.errors import ModelError, TrainingError
from gateau.files import write_json

logger = logging.getLogger(__name__)

KEPT = 2
_MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# what safetensors and torch say of a disk that is full or refuses; neither raises OSError
_UNWRITTEN = re.compile(r"I/O error: .*os error|PytorchStreamWriter failed writing|inline_container.*unexpected pos")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    directory: Path
    step: int
    world_size: int


@contextmanager
def told_writes(*places: str) -> Iterator[None]:
    """Where weights are saved: raise TrainingError, with these places, for those that could not be written."""
    try:
        yield
    except Exception as error:
        if _UNWRITTEN.search(str(error)):
            raise TrainingError(
                f"weights could not be written to {' or '.join(places)} ({error}); see that there is space (df) and "
                "that this user may write there, then run the same command again: a training goes on from its newest "
                "complete checkpoint"
            ) from error
        raise


def training_digest(settings: Mapping[str, Any]) -> str:
    """Digest of everything that changes a training's result; any JSON-ready mapping."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, if there is one. Incomplete ones are named and passed over."""
    for step, directory in sorted(_numbered(folder), reverse=True):
        try:
            marker = json.loads((directory / _MARKER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            logger.warning("%s was not finished; it is ignored", directory)
            continue
        if broken := [name for name, size in marker["files"].items() if _size(directory / name) != size]:
            logger.warning("%s lacks or has changed %s; it is ignored", directory, ", ".join(broken[:3]))
            continue
        return Checkpoint(directory, step, marker["world_size"])
    return None


def mark_complete(directory: Path, world_size: int) -> None:
    """Declare a checkpoint whole. Call it on one rank, after all ranks have written their files."""
    files = {
        str(file.relative_to(directory)): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != _MARKER
    }
    write_json(directory / _MARKER, {"world_size": world_size, "files": files})


def prune(folder: Path, kept: int = KEPT) -> None:
    """Remove all but the newest ``kept`` complete checkpoints, and what is older than the newest and incomplete."""
    numbered = sorted(_numbered(folder), reverse=True)
    complete = [step for step, directory in numbered if (directory / _MARKER).exists()]
    if not complete:
        return
    for step, directory in numbered:
        if step < complete[0] and step not in complete[:kept]:
            shutil.rmtree(directory, ignore_errors=True)
    for converted in folder.glob("universal-*"):
        if int(converted.name.removeprefix("universal-")) < complete[0]:
            shutil.rmtree(converted, ignore_errors=True)


def universal(checkpoint: Checkpoint) -> Path:
    """The checkpoint in DeepSpeed's universal form, which any number of ranks can load; converted once.

    Raises:
        ModelError: DeepSpeed cannot convert it.
    """
    target = checkpoint.directory.with_name(f"universal-{checkpoint.step}")
    if (target / _MARKER).exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    tag = (checkpoint.directory / "latest").read_text(encoding="utf-8").strip()
    logger.info("converting %s for another number of ranks", checkpoint.directory)
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", "--input_folder",
        str(checkpoint.directory / tag), "--output_folder", str(target / tag),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ModelError(
            f"{checkpoint.directory}: DeepSpeed cannot convert it to {target} "
            f"({(result.stderr.strip().splitlines() or ['no message'])[-1]}); train with the "
            f"{checkpoint.world_size} ranks that wrote it, or set train.resume: never"
        )
    (target / "latest_universal").write_text(tag, encoding="utf-8")
    for file in checkpoint.directory.iterdir():  # the Trainer's own state; the weights are in the converted parts
        if file.is_file() and file.name not in (_MARKER, "latest") and file.suffix in (".json", ".pt", ".pth"):
            shutil.copy(file, target / file.name)
    mark_complete(target, 0)
    return target


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return [(int(match[1]), entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
