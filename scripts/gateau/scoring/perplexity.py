"""Negative log-likelihood of a response, from logits at the response's positions only.

PPL(y | c, x) = exp(mean NLL per response token); this module returns the NLLs. The head of the model is applied to the
rows that predict response tokens and no others (64 MB instead of 8 GB at 64k tokens and a vocabulary of 32 000).
"""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from gateau.errors import ModelError

_ROWS_AT_ONCE = 512


@torch.inference_mode()
def response_nll(model: PreTrainedModel, input_ids: torch.Tensor, n_response: int) -> torch.Tensor:
    """NLL of the last ``n_response`` tokens of each sequence.

    Args:
        input_ids: int64 ``[B, S]``, sequences of one length without any padding, on the model's device.
        n_response: how many tokens at the end are scored, ``1 <= n_response < S``.

    Returns:
        float32 ``[B, n_response]``, natural log.
    """
    # No mask and no cache: an unpadded batch needs neither, and a cache of 64k tokens would cost 34 GB at 7B.
    logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=n_response + 1).logits
    if logits.shape[1] != n_response + 1:
        raise ModelError(f"{type(model).__name__} ignored logits_to_keep: it returned {logits.shape[1]} rows of logits")
    logits, targets = logits[:, :-1], input_ids[:, -n_response:]
    nll = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    step = max(_ROWS_AT_ONCE // len(input_ids), 1)
    for start in range(0, n_response, step):
        rows = slice(start, start + step)
        # float32: sums over the vocabulary in half precision lose the second decimal
        nll[:, rows] = torch.nn.functional.cross_entropy(
            logits[:, rows].float().flatten(0, 1), targets[:, rows].flatten(), reduction="none"
        ).view(targets[:, rows].shape)
    return nll


def check_logits_to_keep(model: PreTrainedModel) -> None:
    """Raise ModelError for a model whose forward cannot restrict its logits to the last positions."""
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"{type(model).__name__} has no logits_to_keep argument, and full logits of long inputs exceed memory. "
            "Use a model class of transformers that has it (all current decoder models do)"
        )


@torch.inference_mode()
def reset_rotary_scaling(model: PreTrainedModel) -> None:
    """Bring dynamically scaled rotary frequencies back to their unscaled state.

    Dynamic NTK keeps the frequencies of the longest sequence seen so far, so that without this a sample's score would
    depend on which samples came before it. A forward of one token resets them.
    """
    model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False, logits_to_keep=1)
