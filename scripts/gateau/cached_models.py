"""A hub model's files as far as they lie in the local cache; nothing is fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateau.errors import ModelError
from gateau.model_files import ModelSpec


def local_copy(spec: ModelSpec) -> ModelSpec:
    """The same model as a local directory, so that every loader stays off the network.

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
