"""Negative log-likelihood (NLL) of a response, from logits at the response's positions only.

PPL(y | c, x) = exp(mean NLL per response token); this module returns the NLLs. The output layer is applied only to the
positions that predict response tokens, and to at most :data:`gateau.work.LOGITS_BYTES` of logits at once. With a
vocabulary of 128 000, the logits of 64k tokens would take 33 GB in float32, and those of 40 segments with a response of
1 000 tokens 20 GB.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from gateau.errors import ModelError
from gateau.models import input_device
from gateau.work import LOGITS_BYTES


@torch.inference_mode()
def response_nll(model: PreTrainedModel, input_ids: torch.Tensor, n_response: int) -> torch.Tensor:
    """Compute the NLL of the last ``n_response`` tokens of each sequence.

    The layers below the output layer run once. Then the model's own forward is called on chunks of their result, so
    that whatever the model does to its logits, such as capping or scaling them, is done here too.

    Args:
        model: a causal language model whose forward accepts ``logits_to_keep``.
        input_ids: int64 ``[B, S]``, sequences of the same length without padding, on the model's input device.
        n_response: number of tokens at the end to score, ``1 <= n_response < S``.

    Returns:
        float32 ``[B, n_response]``, natural logarithm.

    Raises:
        ModelError: if the model ignores ``logits_to_keep``.
    """
    hidden = _hidden_states(model, input_ids)
    assert hidden.last_hidden_state is not None
    rows = hidden.last_hidden_state[:, -n_response - 1 : -1].flatten(0, 1)
    targets = input_ids[:, -n_response:].flatten()
    nll = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    step = max(LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size), 1)
    for chunk in torch.arange(len(targets), device=targets.device).split(step):
        with _fixed_output(model.base_model, type(hidden)(last_hidden_state=rows[None, chunk.to(rows.device)])):
            logits = model(input_ids=targets[None, chunk], use_cache=False, logits_to_keep=0).logits
        # float32, because sums over the vocabulary in half precision are wrong in the second decimal
        chunk_nll = torch.nn.functional.cross_entropy(
            logits[0].float(), targets[chunk].to(logits.device), reduction="none"
        )
        nll[chunk] = chunk_nll.to(nll.device)
    return nll.view(len(input_ids), n_response)


def _hidden_states(model: PreTrainedModel, input_ids: torch.Tensor) -> BaseModelOutput:
    """Return the output of the layers below the output layer, by a forward pass that computes logits of one position.

    Raises:
        ModelError: the model returned the logits of other positions too.
    """
    found: list[BaseModelOutput] = []
    hook = model.base_model.register_forward_hook(lambda module, arguments, output: found.append(output))
    try:
        # an unpadded batch needs neither mask nor cache; a cache of 64k tokens would take 34 GB at 7B
        logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits
    finally:
        hook.remove()
    if logits.shape[1] != 1:
        raise ModelError(f"{type(model).__name__} ignored logits_to_keep: it returned {logits.shape[1]} rows of logits")
    return found[0]


@contextmanager
def _fixed_output(module: torch.nn.Module, output: BaseModelOutput) -> Iterator[None]:
    """Let a module return this output, whatever it is called with."""
    replaced: dict[str, Any] = {name: value for name, value in vars(module).items() if name == "forward"}
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        vars(module).update(replaced)  # accelerate's own forward, if the layers lie on several devices


def check_logits_to_keep(model: PreTrainedModel) -> None:
    """Raise ModelError if the model's forward cannot restrict its logits to the last positions."""
    if "logits_to_keep" not in inspect.signature(model.forward).parameters or model.base_model is model:
        raise ModelError(
            f"{type(model).__name__} has no logits_to_keep argument, and full logits of long inputs exceed memory. "
            "Use a model class of transformers that has it (all current decoder models do)"
        )


@torch.inference_mode()
def reset_rotary_scaling(model: PreTrainedModel) -> None:
    """Reset dynamically scaled rotary frequencies to their unscaled state, by a forward pass of one token.

    Dynamic NTK keeps the frequencies of the longest sequence seen so far. Without this reset, the score of a sample
    would depend on the samples before it.
    """
    one_token = torch.zeros((1, 1), dtype=torch.long, device=input_device(model))
    model(input_ids=one_token, use_cache=False, logits_to_keep=1)
