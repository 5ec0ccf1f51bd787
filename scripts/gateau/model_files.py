"""What can be known of a model from its files alone, without torch: used while the workflow is planned.

``path`` is a local directory or a name on the Hugging Face hub. Of a hub name only name and revision are known here;
pin ``revision`` to a commit to make runs reproducible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gateau.errors import ModelError

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
_BLOCK, _BLOCKS = 1 << 16, 16


@dataclass(frozen=True)
class ModelSpec:
    """A model as the configuration names it.

    ``window`` overrides the context window, ``rope_parameters`` entries of the same name in the model's own config.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    window: int | None = None
    rope_parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, value: str | Mapping[str, Any]) -> ModelSpec:
        """From ``models.short`` or ``models.long``: a path or name alone, or an object with options."""
        if isinstance(value, str):
            return cls(value)
        return cls(**{**value, "rope_parameters": dict(value.get("rope_parameters") or {})})

    @property
    def is_local(self) -> bool:
        """Whether the path names a directory here, or can only mean one (starts with ``/``, ``.`` or ``~``)."""
        return self.directory.is_dir() or self.path.startswith(("/", "./", "../", "~"))

    @property
    def directory(self) -> Path:
        """The local directory that ``path`` names."""
        return Path(self.path).expanduser()

    def config(self) -> dict[str, Any]:
        """The local model's config.json. Raises ModelError when there is none."""
        file = self.directory / "config.json"
        if not self.directory.is_dir():
            raise ModelError(f"{self.path}: no such model directory; set models.short / models.long to an existing one")
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelError(f"{file}: missing; a model directory holds config.json, weights and tokenizer") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{file}: not valid JSON ({error})") from error
        return dict(config)

    def context_window(self) -> int | None:
        """Tokens of context: as configured, else as a local model's config.json says; None if neither does."""
        if self.window is not None or not self.is_local:
            return self.window
        config = self.config()
        window = config.get("max_position_embeddings") or config.get("n_positions")
        return int(window) if window else None


@cache
def weights_fingerprint(path: str, revision: str | None) -> str:
    """Digest of a local model: config.json in full, each weight file by its size and sixteen blocks across it.

    Cheap enough for every planning of the workflow (about 1 MB read per weight file), blind to modification times, and
    different for any further-trained checkpoint. A hub name is its own fingerprint together with the revision.
    """
    spec = ModelSpec(path, revision)
    if not spec.is_local:
        return f"hub:{path}@{revision or 'main'}"
    digest = hashlib.sha256(json.dumps(spec.config(), sort_keys=True).encode())
    for file in sorted(spec.directory.iterdir()):
        if file.suffix in _WEIGHTS:
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            digest.update(_sampled(file))
    return digest.hexdigest()


@cache
def tokenizer_fingerprint(path: str, revision: str | None) -> str:
    """Digest of a local model's tokenizer files; of a hub name, the name and revision."""
    spec = ModelSpec(path, revision)
    if not spec.is_local:
        return f"hub:{path}@{revision or 'main'}"
    digest = hashlib.sha256()
    for name in _TOKENIZER:
        file = spec.directory / name
        if file.is_file():
            digest.update(name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _sampled(file: Path) -> bytes:
    """Digest of evenly spaced blocks of a file, its first and last one included."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        for number in range(_BLOCKS):
            handle.seek(max(size - _BLOCK, 0) * number // (_BLOCKS - 1))
            digest.update(handle.read(_BLOCK))
    return digest.digest()
