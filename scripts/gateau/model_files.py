"""Facts about a model that its files tell without torch, for planning the workflow.

``path`` is a local directory or a name on the Hugging Face hub. For a hub name, only name and revision are known here.
Pin ``revision`` to a commit to make runs reproducible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from gateau.digests import files_digest, visible_files
from gateau.errors import ModelError

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# files beside a model's weights that decide answers too: stop tokens, and the chat format
_DECIDES_ANSWERS = ("generation_config.json", "gateau.json")
# of a model of sentence-transformers: its modules (transformer, pooling, dense layers, …), prompts and maximum length
_MODULES = "modules.json"
_EMBEDS = (_MODULES, "config_sentence_transformers.json", "sentence_*_config.json")
_BLOCK, _BLOCKS, _BLOCKS_PER_FILE = 4096, 8, 1024


@dataclass(frozen=True)
class ModelSpec:
    """A model as given in the configuration.

    ``window`` overrides the context window in tokens. ``rope_parameters`` overrides entries of the same name in the
    model's own config.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    window: int | None = None
    rope_parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, value: str | Mapping[str, Any]) -> ModelSpec:
        """Return the spec of a configuration entry: a path or name, or a mapping with options."""
        if isinstance(value, str):
            return cls(value)
        return cls(**{**value, "rope_parameters": dict(value.get("rope_parameters") or {})})

    @property
    def is_local(self) -> bool:
        """Whether the path is an existing directory, or can only be one (``/…``, ``./…``, ``../…`` or ``~…``)."""
        return self.directory.is_dir() or self.path.startswith(("/", "./", "../", "~"))

    @property
    def directory(self) -> Path:
        """The local directory that ``path`` names."""
        return Path(self.path).expanduser()

    @property
    def location(self) -> str:
        """What a loader needs: the directory with ``~`` expanded, or the hub name."""
        return str(self.directory) if self.is_local else self.path

    def identity(self) -> list[Any]:
        """Return what decides the model's answers, wherever it lies: digests of its files, and its options."""
        beside = [self.directory / name for name in _DECIDES_ANSWERS] if self.is_local else []
        return [
            weights_fingerprint(self.path, self.revision),
            tokenizer_fingerprint(self.path, self.revision),
            [self.window, self.rope_parameters, self.trust_remote_code],
            files_digest(*beside),
        ]

    def config(self) -> dict[str, Any]:
        """Return the config.json of a local model.

        Raises:
            ModelError: the directory or the file is missing, or the file is not JSON.
        """
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
        """Return the context window in tokens, as configured or from a local model's config.json; None if unknown."""
        if self.window is not None or not self.is_local:
            return self.window
        config = self.config()
        config = config.get("text_config") or config  # of a model that also reads images
        window = config.get("max_position_embeddings") or config.get("n_positions")
        return int(window) if window else None


def check_window(spec: ModelSpec, window: int | None, max_length: int) -> None:
    """Check that θ_L can read sequences of ``max_length`` tokens.

    Raises:
        ModelError: they exceed the context window ``window``, and no ``rope_parameters`` extend it.
    """
    if window and window < max_length and not spec.rope_parameters:
        raise ModelError(
            f"scoring.max_length is {max_length}, but models.long ({spec.path}) has a window of {window} tokens: "
            f"lower it to {window} or scale the model with models.long.rope_parameters"
        )


@cache
def weights_fingerprint(path: str, revision: str | None) -> str:
    """Return a digest of a local model: config.json in full, and size and sampled bytes of each weight file.

    The samples of a safetensors file are its header and eight blocks of 4 KB of every tensor, so that further training
    of any layer changes the digest. The samples of other formats are 1024 blocks spread over the file. This is cheap
    enough for every planning (about 10 MB of reads for a 7B model) and ignores modification times. A change of bytes
    between the blocks only is not detected. The fingerprint of a hub model is its name and revision.

    The files of all modules of an embedding model count too. Python files count if the model names code of its own.
    """
    spec = ModelSpec(path, revision)
    if not spec.is_local:
        return f"hub:{path}@{revision or 'main'}"
    config = spec.config()
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(spec.directory.iterdir()):
        if file.suffix in _WEIGHTS:
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            _update_with_weights(digest, file)
    modules = _read_modules(spec.directory)
    for file in _module_files(spec.directory, modules):
        digest.update(f"{file.relative_to(spec.directory)}:{file.stat().st_size}".encode())
        if file.suffix in _WEIGHTS:
            _update_with_weights(digest, file)
        else:
            digest.update(file.read_bytes())
    if "auto_map" in config or any(not kind.startswith("sentence_transformers.") for kind in modules.values()):
        _update_with_code(digest, spec.directory)
    return digest.hexdigest()


def _read_modules(folder: Path) -> dict[str, str]:
    """Return the classes of an embedding model's modules by their folders; nothing for another model.

    Raises:
        ModelError: the list of modules cannot be read.
    """
    file = folder / _MODULES
    if not file.is_file():
        return {}
    try:
        return {str(module["path"]): str(module["type"]) for module in json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not a list of modules ({error!r}); copy the model again") from error


def _module_files(folder: Path, modules: Mapping[str, str]) -> list[Path]:
    """Return what an embedding model has besides a plain model: its settings, and all files in its modules' folders."""
    if not modules:
        return []
    inside = [file for name in modules if name for file in visible_files(folder / name)]
    return sorted({file for pattern in _EMBEDS for file in folder.glob(pattern)} | set(inside))


def _update_with_code(digest: hashlib._Hash, folder: Path) -> None:
    """Add the names and contents of the Python files that come with a model."""
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())


@cache
def tokenizer_fingerprint(path: str, revision: str | None) -> str:
    """Return a digest of a local model's tokenizer files, or the name and revision of a hub model.

    Python files count if the tokenizer names code of its own.
    """
    spec = ModelSpec(path, revision)
    if not spec.is_local:
        return f"hub:{path}@{revision or 'main'}"
    digest = hashlib.sha256()
    for name in _TOKENIZER:
        file = spec.directory / name
        if file.is_file():
            digest.update(name.encode())
            digest.update(file.read_bytes())
            if name == "tokenizer_config.json" and b'"auto_map"' in file.read_bytes():
                _update_with_code(digest, spec.directory)
    return digest.hexdigest()


def fingerprints(section: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of a model's weights and of its tokenizer, which do not depend on path or time."""
    path, revision = section["path"], section.get("revision")
    return {"weights": weights_fingerprint(path, revision), "tokenizer": tokenizer_fingerprint(path, revision)}


def _update_with_weights(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as handle:
        for start, stop in _tensor_spans(handle, size) if file.suffix == ".safetensors" else [(0, size)]:
            last = max(stop - start - _BLOCK, 0)
            blocks = _BLOCKS if file.suffix == ".safetensors" else _BLOCKS_PER_FILE
            for offset in sorted({last * number // (blocks - 1) for number in range(blocks)}):
                handle.seek(start + offset)
                digest.update(handle.read(min(_BLOCK, stop - start)))


def _tensor_spans(handle: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Return byte ranges (start, stop) of a safetensors file: its header, then every tensor.

    If the header cannot be read, the only range is the whole file.
    """
    length = int.from_bytes(handle.read(8), "little")
    if not 0 < length <= size - 8:
        return [(0, size)]
    try:
        header = json.loads(handle.read(length))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return [(0, size)]
    start = 8 + length
    tensors = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return [(0, start), *sorted((start + first, start + last) for first, last in tensors)]


def local_copy(spec: ModelSpec) -> ModelSpec:
    """Return the same model as a local directory, so that no loader uses the network.

    A model of the hub is looked up in the local cache.

    Raises:
        ModelError: there is no config.json, neither in the model's directory nor in the cache.
    """
    if spec.is_local:
        spec.config()
        return spec
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.path, "config.json", revision=spec.revision)
    if not isinstance(found, str):
        raise ModelError(
            f"{spec.path}: its config.json is not cached here; fetch it with `hf download {spec.path} config.json`, or "
            "give a local directory"
        )
    return replace(spec, path=str(Path(found).parent), revision=None)
