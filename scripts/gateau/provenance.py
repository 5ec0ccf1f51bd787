"""Write a manifest for each folder of results, which says where its files come from, and compare files with it.

This module needs the standard library only. A manifest is written after every change, so it must take less than a
second in addition to hashing.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gateau.digests import describe_files, file_sha256, settings_digest, visible_files
from gateau.errors import DataError

NAME = "manifest.json"
RUNNING_ON, ANSWERED_BY = "running on ", "answered by "  # start of log lines that manifests quote
_PACKAGES = (
    "gateau-workflow", "torch", "transformers", "tokenizers", "accelerate", "deepspeed", "flash-attn", "peft", "numpy",
    "pandas", "pyarrow", "scipy", "datasketch", "scikit-learn", "sentence-transformers", "openai", "jieba", "rouge",
    "snakemake", "snakemake-executor-plugin-slurm",
)  # fmt: skip


def result_files(folder: Path) -> Iterator[Path]:
    """Yield the files that a manifest lists: all except manifests."""
    return (path for path in visible_files(folder) if path.name != NAME)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages on which results can depend."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(repository: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it; None if the folder is no checkout, or without git.

    An installed package may lie inside the checkout of another project, whose commit says nothing about this one.
    """
    if not (repository / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def said_in_logs(logs: Path, beginning: str) -> list[str]:
    """Return what follows ``beginning`` in the log lines of a folder's jobs, each text once.

    With :data:`RUNNING_ON`, these are the places where the jobs ran, see :func:`gateau.command.run`. With
    :data:`ANSWERED_BY`, these are the servers that the jobs started.
    """
    found: dict[str, None] = {}
    for log in sorted(logs.rglob("*.log")):
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _, mark, said = line.partition(f" INFO {beginning}")
                if mark:
                    found[said.strip()] = None
    return list(found)


def make_manifest(
    folder: Path,
    logs: Path,
    repository: Path,
    config: Mapping[str, Any],
    models: Mapping[str, Any],
    data: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest of a folder of results: its files and where they come from.

    Args:
        folder: the folder.
        logs: folder with the logs of the jobs that made it.
        repository: the workflow's repository, for its commit.
        config: the whole configuration with its seeds. It never contains keys or tokens.
        models: fingerprints of the models by role.
        data: paths of raw data files, which are hashed in full.
    """
    return {
        "folder": folder.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": describe_files(folder, but=NAME),
        "versions": versions(),
        "git": git_state(repository),
        "environments": said_in_logs(logs, RUNNING_ON),
        "servers": said_in_logs(logs, ANSWERED_BY),
        "models": dict(models),
        "data": {place: {"n_bytes": Path(place).stat().st_size, "sha256": file_sha256(Path(place))} for place in data},
        "config_sha256": settings_digest(config),
        "config": dict(config),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest in a file.

    Raises:
        DataError: the file is not a manifest.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {**manifest, "files": {name: dict(entry) for name, entry in manifest["files"].items()}}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({error!r}); run the workflow again to write a new one") from error


def check_folder(folder: Path) -> list[str]:
    """Return one line per difference between a folder and its manifest; an empty list if there is none."""
    expected = read_manifest(folder / NAME)["files"]
    present = {path.relative_to(folder).as_posix(): path for path in result_files(folder)}
    findings = [f"{folder / name}: missing" for name in expected if name not in present]
    findings += [f"{folder / name}: not in the manifest" for name in present if name not in expected]
    for name, entry in expected.items():
        if name in present:
            size = present[name].stat().st_size
            if size != entry["n_bytes"]:
                findings.append(f"{folder / name}: {size} bytes instead of {entry['n_bytes']}")
            elif file_sha256(present[name]) != entry["sha256"]:
                findings.append(f"{folder / name}: same size, different content (SHA-256)")
    return sorted(findings)
