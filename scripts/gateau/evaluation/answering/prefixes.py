"""Questions whose prompts begin alike, such as many questions about one document: the beginning is read only once.

In a batch that is padded on the left, the columns before the end of the shared beginning hold only padding and tokens
of this beginning. Their keys and values are therefore copied from one reading, and the model computes the remaining
columns of all rows together. Each row has the layout of an ordinary padded row, so sliding windows and positions are
right without further care.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SHORTEST = 512  # tokens; below it, one large batch of different beginnings is as fast
MOST_QUESTIONS = 16  # that are answered, and stored, together

_ID = np.dtype(">i4")  # whose bytes sort as the ids do


def can_share(config: PreTrainedConfig) -> bool:
    """Return whether a model's keys and values at a position depend on the tokens up to it, and on nothing else.

    Layers with a state (linear attention, state spaces) or with a compressed cache keep no keys and values for each
    position. The frequencies of some rotary embeddings change with the length of the text.
    """
    text = config.get_text_config(decoder=True)
    if "chunked_attention" in (getattr(text, "layer_types", None) or ()) or config.is_encoder_decoder:
        return False
    if {"dynamic", "longrope"} & set(_rope_types(getattr(text, "rope_parameters", None))):
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _rope_types(parameters: Any) -> list[str]:
    """Return the types of a model's rotary embeddings, whose parameters may be given for each type of layer."""
    if not isinstance(parameters, Mapping):
        return []
    nested = [kind for value in parameters.values() for kind in _rope_types(value)]
    return [str(parameters["rope_type"]), *nested] if "rope_type" in parameters else nested


def encoded(ids: Sequence[int]) -> bytes:
    """Return token ids in the form that :func:`families` takes, which needs little memory."""
    return np.asarray(ids, _ID).tobytes()


def families(prompts: Mapping[int, bytes]) -> list[list[int]]:
    """Return the groups of at least two prompts that share their beginning, see :func:`shared_length`.

    Args:
        prompts: encoded token ids by number.

    Returns:
        The numbers of each group. A number is in one group at most.
    """
    found: list[list[int]] = []
    family: list[int] = []
    shared = longest = 0
    for number in sorted(prompts, key=lambda one: (prompts[one], one)):
        size = len(prompts[number]) // _ID.itemsize
        if family and len(family) < MOST_QUESTIONS:
            common = min(shared, _common(prompts[family[0]], prompts[number]))
            if _is_worth_it(common, max(longest, size)):
                family.append(number)
                shared, longest = common, max(longest, size)
                continue
        found.append(family)
        family, shared, longest = [number], size, size
    return [one for one in [*found, family] if len(one) > 1]


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens at the beginning that are read once for all prompts; 0 if that is not worth it.

    It is worth it for at least :data:`SHORTEST` tokens and half of the longest prompt. At least one token of each
    prompt is not counted, because the model has to compute its logits.
    """
    if len(prompts) < 2:
        return 0
    common = min(_common(encoded(prompts[0]), encoded(other)) for other in prompts[1:])
    common = min(common, *(len(ids) - 1 for ids in prompts))
    return common if _is_worth_it(common, max(map(len, prompts))) else 0


def _is_worth_it(common: int, longest: int) -> bool:
    return common >= max(SHORTEST, longest / 2)


def _common(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    differs = np.flatnonzero(np.frombuffer(one[:size], _ID) != np.frombuffer(other[:size], _ID))
    return int(differs[0]) if len(differs) else size // _ID.itemsize


class Prefix:
    """The keys and values of a beginning of ``ids``, for any number of batches."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:
        # Without a config, all layers keep all tokens; a sliding window is then in the mask alone.
        self._cache = DynamicCache()
        self._length = int(ids.shape[-1])
        model.base_model(ids[None], past_key_values=self._cache, use_cache=True)

    def rows(self, padding: Sequence[int]) -> DynamicCache:
        """Return a cache for a batch of rows with so much padding on the left. The longest row has none.

        The cache of a single row is this object's own, to spare memory; call :meth:`restore` when it was used.
        """
        if len(padding) == 1:
            return self._cache
        cache = DynamicCache()
        for number, (keys, values, _) in enumerate(self._cache):
            cache.update(self._repeated(keys, padding), self._repeated(values, padding), number)
        return cache

    def _repeated(self, states: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
        return torch.cat([pad(states[:, :, : self._length - n], (0, 0, n, 0)) for n in padding])

    def restore(self) -> None:
        """Remove what a single row has added."""
        self._cache.crop(self._length - self._cache.get_seq_length())
