"""The key of a pass's progress store: all settings that change the numbers of the pass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gateau.digests import meaning_digest
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime

_PACKAGE = Path(__file__).resolve().parents[1]
_NUMERICS = (
    "prompts.py",
    "models.py",
    "rotary.py",
    "scoring/perplexity.py",
    "scoring/attention.py",
    "scoring/passes.py",
    "attention_profiles.py",
)


def pass_settings(
    spec: ModelSpec, config: Any, runtime: Runtime, frame: Mapping[str, Any], max_length: int, **pass_options: Any
) -> Mapping[str, Any]:
    """Return a JSON-ready mapping of all settings that change the numbers of a pass beyond rounding.

    Device, batch size and the versions of torch and transformers are left out: they change the last digits only, and
    must not discard finished work.

    Args:
        spec: the resolved model; a hub model counts by its commit.
        config: the model's loaded config.
        runtime: device, dtype and attention backend.
        frame: the frame around the texts, which tells apart formats, templates and their options.
        max_length: maximum tokens of a whole sequence.
        pass_options: settings of the pass itself, such as its segment length.
    """
    described = runtime.describe(config)
    return {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
        "window": spec.window,
        "rope_parameters": spec.rope_parameters,
        "dtype": described["dtype"],
        "attention": described["attention"],
        "frame": frame,
        "max_length": max_length,
        "code": numerics_version(),
        **pass_options,
    }


@cache
def numerics_version() -> str:
    """Return a digest of the code that computes scores.

    An edit that could change a number starts a new store. An edit of comments or docstrings alone does not discard
    finished work.
    """
    return meaning_digest(_PACKAGE / name for name in _NUMERICS)
