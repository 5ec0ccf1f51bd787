"""The context window of a model, and the scaling of its rotary position embeddings, as configured.

transformers derives constants of a scaling from ``max_position_embeddings`` where the configuration does not name them.
They are written down before that value is overwritten, so that a window changes no frequency.
"""

from __future__ import annotations

from typing import Any

from gateau.errors import ModelError
from gateau.model_files import ModelSpec


def set_positions(spec: ModelSpec, text: Any, dynamic_ntk: bool) -> None:
    """Change the configuration of a text model to the spec's ``window`` and ``rope_parameters``.

    With ``dynamic_ntk``, the rotary base of full-attention layers grows with length / window beyond the window. The
    factor is 1, so that nothing changes inside the window.

    Raises:
        ModelError: there are no rotary embeddings to scale, or a scaling of the model's own would be changed silently,
            by ``dynamic_ntk`` or by another window.
    """
    if dynamic_ntk or spec.rope_parameters:
        _scale(spec, text, {"rope_type": "dynamic", "factor": 1.0} if dynamic_ntk else {})
    own = getattr(text, "max_position_embeddings", None)
    if spec.window:
        if own and spec.window != own:
            for rope in _by_layer_type(getattr(text, "rope_parameters", None) or {}).values():
                _keep_frequencies(spec, rope, own, dynamic_ntk)
        text.max_position_embeddings = spec.window


def _by_layer_type(rope: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each layer type, as Gemma 3 has them; those of all layers count as full attention's."""
    layered = {name: value for name, value in rope.items() if isinstance(value, dict)}
    return layered or {"full_attention": rope}


def _scale(spec: ModelSpec, text: Any, scaling: dict[str, Any]) -> None:
    current: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    full = _by_layer_type(current).get("full_attention")
    if not full:
        raise ModelError(f"{spec.path}: no rotary position embeddings to scale; use scoring.short_context: truncate")
    own = full.get("rope_type", "default")
    if scaling and own != "default" and not spec.rope_parameters:
        raise ModelError(
            f"{spec.path} scales its rotary embeddings itself ({own}), which dynamic NTK would overwrite; use "
            "scoring.short_context: none or truncate, or set models.short.rope_parameters to what you want"
        )
    scaled = {**full, **scaling, **spec.rope_parameters}
    text.rope_parameters = scaled if full is current else {**current, "full_attention": scaled}


def _keep_frequencies(spec: ModelSpec, rope: dict[str, Any], own: int, dynamic_ntk: bool) -> None:
    """Write down what transformers would derive from the model's own window, the number of tokens ``own``."""
    kind = rope.get("rope_type")
    if kind == "dynamic" and not dynamic_ntk and "rope_type" not in spec.rope_parameters:
        raise ModelError(
            f"{spec.path} scales its rotary embeddings itself beyond {own} tokens (dynamic), which models.*.window: "
            f"{spec.window} would change; leave out window, and set models.*.rope_parameters to {{rope_type: dynamic, "
            f"factor: {rope.get('factor')}}} to read longer sequences"
        )
    if kind in ("yarn", "llama3", "longrope"):
        original = rope.setdefault("original_max_position_embeddings", own)
        if kind == "longrope" and rope.get("factor") is None:
            rope["factor"] = own / original
