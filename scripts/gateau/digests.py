"""Digests of files, folders, settings and code, by which a rule or the progress store detects changes.

Digests depend on contents, not on times or places. Snakemake compares files by content but folders by time. A rule that
makes a folder therefore also writes a list of its files, and the rules that read the folder take this list as input.
Snakemake tracks the shell command of a rule but not the modules that it runs. Each rule therefore has a parameter with
the digest of its script and of all modules of this package that the script imports, directly or indirectly.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gateau.places import PACKAGE, SCRIPTS

_CHUNK = 1 << 20  # bytes
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(gateau[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(gateau[\w.]*))", re.MULTILINE
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """Return what ``git hash-object`` prints for a file, which is read in blocks."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def settings_digest(settings: Any, length: int = 64) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of ``settings``, any value that JSON can hold.

    Dates, paths and other objects in it count as their texts.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:length]


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files below ``folder``, sorted, without hidden ones (unfinished writes, Snakemake's markers)."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts):
            yield path


def describe_files(folder: Path, but: str | None = None) -> dict[str, dict[str, Any]]:
    """Return size in bytes and SHA-256 of each file by its path inside ``folder``, except files named ``but``."""
    return {
        path.relative_to(folder).as_posix(): {"n_bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in visible_files(folder)
        if path.name != but
    }


def files_digest(*places: str | Path) -> str:
    """Return a digest of the names and contents of files, and of all files in folders."""
    digest = hashlib.sha256()
    for place in map(Path, places):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                digest.update(file.name.encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def code_digest(script: str, *modules: str) -> str:
    """Return the digest of a script's code and of all modules of the package that it imports, to any depth.

    Args:
        script: name of a file in ``scripts/``.
        modules: dotted names of further modules that the script loads by name, such as a benchmark's.
    """
    paths = imported_sources(SCRIPTS / script)
    for module in modules:
        paths |= {found for file in _module_files(module) for found in imported_sources(file)}
    digest = hashlib.sha256()
    for name, path in sorted((_name(path), path) for path in paths):
        digest.update(name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _name(path: Path) -> str:
    """Return a source file's name, which is the same in a checkout and in an installed wheel."""
    base = PACKAGE.parent if PACKAGE in path.parents else SCRIPTS
    return path.relative_to(base).as_posix()


def imported_sources(path: Path) -> set[Path]:
    """Return ``path`` and the package's modules that it imports, to any depth, also those imported inside functions."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += _imports(current)
    return found


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    # not by ast, which takes half a second for the whole package in every plan and every job on a cluster
    for module, listed, plain in _IMPORT.findall(path.read_text(encoding="utf-8")):
        names.add(module or plain)
        names.update(f"{module}.{name}" for name in re.sub(r"#.*|[(),]|\bas \w+", " ", listed).split())
    return tuple(sorted({file for name in names for file in _module_files(name)}))


def _module_files(name: str) -> list[Path]:
    """Return the files that importing a module of this package runs: its own and those of the packages around it."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    bases = [PACKAGE.parent.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    return [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]


def meaning_digest(paths: Iterable[Path]) -> str:
    """Return a digest of what code does, in every version of Python the same.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(repr(_meaning(tree)).encode())
    return digest.hexdigest()


def _meaning(node: Any) -> Any:
    """Return a syntax tree as lists, without what differs between versions of Python.

    Newer versions have more fields, which are mostly empty. Some find empty texts in the format of an f-string.
    """
    if isinstance(node, list):
        return [_meaning(part) for part in node]
    if isinstance(node, ast.JoinedStr):
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if not isinstance(node, ast.AST):
        return node
    parts = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return [type(node).__name__, *((name, _meaning(value)) for name, value in parts)]
