"""Where results come from: a manifest for each folder of results, and whether its files are still those it names.

Only the standard library: a manifest is made after every change, and must cost less than a second beside hashing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gateau.digests import describe_files, file_sha256, visible_files
from gateau.errors import DataError

NAME = "manifest.json"
_PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "deepspeed", "flash-attn", "peft", "numpy", "pandas",
    "pyarrow", "scipy", "datasketch", "scikit-learn", "sentence-transformers", "openai", "jieba", "rouge",
    "snakemake", "snakemake-executor-plugin-slurm",
)  # fmt: skip


def result_files(folder: Path) -> Iterator[Path]:
    """The files that a manifest names: not the manifests themselves."""
    return (path for path in visible_files(folder) if path.name != NAME)


def versions() -> dict[str, str]:
    """Of Python and the packages that results can depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(repository: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside a repository or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def environments(logs: Path) -> list[str]:
    """What the jobs of a folder said they ran on, each environment once: see :func:`gateau.command.run`."""
    found: dict[str, None] = {}
    for log in sorted(logs.rglob("*.log")):
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _, mark, said = line.partition(" INFO running on ")
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
    """What a result folder holds and where it comes from.

    ``models``: fingerprints by role. ``data``: raw files, digested in full. ``config``: the whole configuration, which
    holds the seeds; keys and tokens are never part of it.
    """
    canonical = json.dumps(config, sort_keys=True)
    return {
        "folder": folder.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": describe_files(folder, but=NAME),
        "versions": versions(),
        "git": git_state(repository),
        "environments": environments(logs),
        "models": dict(models),
        "data": {place: {"n_bytes": Path(place).stat().st_size, "sha256": file_sha256(Path(place))} for place in data},
        "config_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "config": dict(config),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest. Raises DataError for a file that is none."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {**manifest, "files": {name: dict(entry) for name, entry in manifest["files"].items()}}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({error!r}); make it anew by running the workflow") from error


def check_folder(folder: Path) -> list[str]:
    """What differs from the folder's manifest, a line each; nothing if all is as it was."""
    expected = read_manifest(folder / NAME)["files"]
    present = {path.relative_to(folder).as_posix(): path for path in result_files(folder)}
    findings = [f"{folder / name}: missing" for name in expected if name not in present]
    findings += [f"{folder / name}: not in the manifest" for name in present if name not in expected]
    for name, entry in expected.items():
        if name in present:
            size = present[name].stat().st_size
            if size != entry["n_bytes"]:
                findings.append(f"{folder / name}: {size} bytes, the manifest says {entry['n_bytes']}")
            elif file_sha256(present[name]) != entry["sha256"]:
                findings.append(f"{folder / name}: same size, other content (sha256)")
    return sorted(findings)
