"""Which source files a script stands on, and digests of them: how a rule knows that its code has changed.

Snakemake tracks a shell command but not the modules behind it. A rule therefore carries the digest of its script and of
every module of this package that the script imports, directly or not, as a parameter. Contents count, not times.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[1]
_PACKAGE = "gateau"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_digest(script: str) -> str:
    """Digest of ``scripts/<script>`` and of all modules of the package that it imports, to any depth."""
    digest = hashlib.sha256()
    for path in sorted(imported_sources(_SCRIPTS / script)):
        digest.update(str(path.relative_to(_SCRIPTS)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def imported_sources(path: Path) -> set[Path]:
    """``path`` and the package's modules that it imports, to any depth, lazy imports inside functions included."""
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    candidates = (_SCRIPTS / Path(*name.split(".")) for name in names if name.split(".")[0] == _PACKAGE)
    files = (candidate.with_suffix(".py") for candidate in candidates)
    return tuple(sorted(file for file in files if file.is_file()))


def meaning_digest(paths: Iterable[Path]) -> str:
    """Digest of what code does: comments, docstrings and layout left out."""
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()
