"""Everything that changes a pass's numbers, gathered into the key of its progress store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gateau.digests import meaning_digest
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime

_PACKAGE = Path(__file__).resolve().parents[1]
_NUMERICS = ("prompts.py", "models.py", "scoring/perplexity.py", "scoring/attention.py", "scoring/passes.py")


def pass_settings(
    spec: ModelSpec, config: Any, runtime: Runtime, prompt: str, max_length: int, **pass_options: Any
) -> Mapping[str, Any]:
    """A JSON-ready mapping that differs whenever a pass would compute other numbers, rounding apart.

    ``spec`` is resolved: of a hub model, the commit counts. Device, batch size and the versions of torch and
    transformers are not part of it: they change the last digits only, and must not throw away finished work.
    """
    described = runtime.describe(config)
    return {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
        "window": spec.window,
        "rope_parameters": spec.rope_parameters,
        "dtype": described["dtype"],
        "attention": described["attention"],
        "prompt": prompt,
        "max_length": max_length,
        "code": numerics_version(),
        **pass_options,
    }


@cache
def numerics_version() -> str:
    """Digest of the code that computes scores.

    An edit that could change a number starts a new store; an edit to words alone does not throw away finished work.
    """
    return meaning_digest(_PACKAGE / name for name in _NUMERICS)
