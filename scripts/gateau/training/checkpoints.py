"""Checkpoints: one folder per training, keyed by everything that changes its result.

A checkpoint is used only if it is complete. Its marker file lists every file with its size and is written last. The
folder is not a declared output of the rule, because Snakemake deletes the outputs of a failed job.
"""

from __future__ import annotations

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

from gateau.digests import settings_digest
from gateau.errors import ModelError, TrainingError
from gateau.files import write_json

logger = logging.getLogger(__name__)

KEPT = 2
_MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# messages of safetensors and torch for a failed write; neither raises OSError
_FAILED_WRITE = re.compile(r"I/O error: .*os error|PytorchStreamWriter failed writing|inline_container.*unexpected pos")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        directory: folder of the checkpoint.
        step: optimiser steps done.
        world_size: number of ranks that wrote it.
    """

    directory: Path
    step: int
    world_size: int


@contextmanager
def explain_failed_writes(*places: str) -> Iterator[None]:
    """Turn the error of a failed write of weights, which names no path, into a TrainingError that names ``places``."""
    try:
        yield
    except Exception as error:
        if _FAILED_WRITE.search(str(error)):
            raise TrainingError(
                f"weights could not be written to {' or '.join(places)} ({error}); check the free space (df) and that "
                "this user may write there, then run the same command again: a training continues from its newest "
                "complete checkpoint"
            ) from error
        raise


def training_digest(settings: Mapping[str, Any]) -> str:
    """Return the digest of everything that changes a training's result, given as a JSON-ready mapping."""
    return settings_digest(settings, 32)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint, or None. Incomplete checkpoints are logged and ignored."""
    for step, directory in sorted(_numbered(folder), reverse=True):
        try:
            marker = json.loads((directory / _MARKER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            logger.warning("%s is ignored: it was not finished", directory)
            continue
        if broken := [name for name, size in marker["files"].items() if _size(directory / name) != size]:
            logger.warning("%s is ignored: missing or of another size are %s", directory, ", ".join(broken[:3]))
            continue
        return Checkpoint(directory, step, marker["world_size"])
    return None


def mark_complete(directory: Path, world_size: int) -> None:
    """Write the marker of a complete checkpoint. Call this on one rank, after all ranks have written their files."""
    files = {
        str(file.relative_to(directory)): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != _MARKER
    }
    write_json(directory / _MARKER, {"world_size": world_size, "files": files})


def prune(folder: Path, kept: int = KEPT) -> None:
    """Delete old checkpoints: keep the newest ``kept`` complete ones, and incomplete ones newer than all complete ones.

    Converted (universal) checkpoints older than the newest complete checkpoint are deleted, too.
    """
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


def convert_to_universal(checkpoint: Checkpoint) -> Path:
    """Convert a checkpoint to DeepSpeed's universal format, which any number of ranks can load, and return its folder.

    A checkpoint that is already converted is not converted again.

    Raises:
        ModelError: if DeepSpeed cannot convert it.
    """
    target = checkpoint.directory.with_name(f"universal-{checkpoint.step}")
    if (target / _MARKER).exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    tag = (checkpoint.directory / "latest").read_text(encoding="utf-8").strip()
    logger.info("converting %s so that another number of ranks can load it", checkpoint.directory)
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", "--input_folder",
        str(checkpoint.directory / tag), "--output_folder", str(target / tag),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ModelError(
            f"{checkpoint.directory}: DeepSpeed cannot convert this checkpoint to {target} "
            f"({(result.stderr.strip().splitlines() or ['no message'])[-1]}); train with {checkpoint.world_size} ranks "
            "as before, or set train.resume: never"
        )
    (target / "latest_universal").write_text(tag, encoding="utf-8")
    for file in checkpoint.directory.iterdir():  # copy the Trainer's own state; the converted files have the weights
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
