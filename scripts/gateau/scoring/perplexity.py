"""Negative log-likelihood (NLL) of a response, from logits at the response's positions only.

PPL(y | c, x) = exp(mean NLL per response token); this module returns the NLLs. The output layer is applied only to the
positions that predict response tokens, and to at most :data:`gateau.work.LOGITS_BYTES` of logits at once. With a
vocabulary of 128 000, the logits of 64k tokens would take 33 GB in float32, and those of 40 segments with a response of
1 000 tokens 20 GB.

The logits are float32 even if the model computes in half precision: rounded to bfloat16, logits near 20 are multiples
of 0.125.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from gateau.errors import ModelError
from gateau.models import input_device
from gateau.work import LOGITS_BYTES

_ADVICE = "use a model class of transformers (all current decoder models work)"
_COPIED_BYTES = 64_000_000  # of output weights at once in float32


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
        ModelError: the model's forward does not turn the result of the layers below into one row of logits each.
    """
    body = _body(model)
    # an unpadded batch needs neither mask nor cache; a cache of 64k tokens would take 34 GB at 7B
    hidden = body(input_ids=input_ids, use_cache=False)
    rows = hidden.last_hidden_state[:, -n_response - 1 : -1].flatten(0, 1)
    targets = input_ids[:, -n_response:].flatten()
    nll = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    step = max(LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size), 1)
    for chunk in torch.arange(len(targets), device=targets.device).split(step):
        outputs = [type(hidden)(last_hidden_state=rows[None, chunk.to(rows.device)])]
        with _forward(body, lambda *args, outputs=outputs, **kwargs: outputs.pop()), _float32_logits(model):
            logits = model(input_ids=targets[None, chunk], use_cache=False, logits_to_keep=0).logits
        if outputs or logits.shape[1] != len(chunk):
            raise ModelError(
                f"{type(model).__name__} does not compute its logits from the output of {type(body).__name__} alone, "
                f"so they cannot be computed in parts; {_ADVICE}"
            )
        # an output layer that is no linear layer may still give half precision
        chunk_nll = torch.nn.functional.cross_entropy(
            logits[0].float(), targets[chunk].to(logits.device), reduction="none"
        )
        nll[chunk] = chunk_nll.to(nll.device)
    return nll.view(len(input_ids), n_response)


def _body(model: PreTrainedModel) -> Any:
    """Return the module below the output layer, which the model's own forward calls; the model itself if unknown."""
    body = model.base_model
    if body is model:  # Llama 4 has another name for it than its base_model_prefix
        body = getattr(model, "model", model)
    decoder = getattr(body, "decoder", None)  # OPT's forward calls this part of its body
    return decoder if isinstance(decoder, PreTrainedModel) else body


@contextmanager
def _forward(module: torch.nn.Module, function: Callable[..., Any], name: str = "forward") -> Iterator[None]:
    """Let a module compute this function instead of its forward."""
    replaced: dict[str, Any] = {key: value for key, value in vars(module).items() if key == name}
    setattr(module, name, function)
    try:
        yield
    finally:
        delattr(module, name)
        vars(module).update(replaced)  # accelerate's own forward, if the layers lie on several devices


@contextmanager
def _float32_logits(model: PreTrainedModel) -> Iterator[None]:
    """Let the output layer of a model in half precision give float32 logits. What follows it then computes in float32.

    Nothing changes for other models, and for output layers that are not linear or are quantized.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear) or layer.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    # accelerate's forward fetches the weights of a layer that lies elsewhere, and then calls _old_forward
    name = "_old_forward" if hasattr(layer, "_old_forward") else "forward"
    with _forward(layer, lambda hidden: _float32_product(layer, hidden), name):
        yield


def _float32_product(layer: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """Return what the layer computes from ``[..., width]`` in half precision, with a float32 result."""
    weight, rows = layer.weight, hidden.flatten(0, -2)
    if _multiplies_into_float32(weight.device.type, weight.dtype):
        product = torch.mm(rows, weight.t(), out_dtype=torch.float32)
    else:  # a part of the vocabulary at once, so that no float32 copy of all weights is needed
        parts = weight.split(max(_COPIED_BYTES // (4 * weight.shape[1]), 1))
        product = torch.cat([rows.float() @ part.float().t() for part in parts], dim=1)
    if layer.bias is not None:
        product += layer.bias
    return product.view(*hidden.shape[:-1], -1)


@cache
def _multiplies_into_float32(device: str, dtype: torch.dtype) -> bool:
    """Tell whether torch multiplies matrices of half precision into a float32 result on this device."""
    one = torch.ones((16, 16), device=device, dtype=dtype)
    try:
        torch.mm(one, one, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # an older torch, or a CPU
        return False
    return True


def check_logits_to_keep(model: PreTrainedModel) -> None:
    """Raise ModelError if the model's forward cannot restrict its logits, or has no part below its output layer."""
    name = type(model).__name__
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"{name} has no logits_to_keep argument, and full logits of long inputs exceed memory; {_ADVICE}"
        )
    if _body(model) is model:
        raise ModelError(
            f"{name} has no part below its output layer that is called {model.base_model_prefix!r} or 'model', which "
            f"the logits of long inputs must be computed from; {_ADVICE}"
        )


@torch.inference_mode()
def reset_rotary_scaling(model: PreTrainedModel) -> None:
    """Reset dynamically scaled rotary frequencies to their unscaled state, by a forward pass of one token.

    Dynamic NTK keeps the frequencies of the longest sequence seen so far. Without this reset, the score of a sample
    would depend on the samples before it. Nothing is done for a model class of transformers without such scaling.
    """
    kinds = (str(getattr(module, "rope_type", "")) for module in model.modules())  # of each layer type, or one
    if type(model).__module__.startswith("transformers.") and not any("dynamic" in kind for kind in kinds):
        return
    one_token = torch.zeros((1, 1), dtype=torch.long, device=input_device(model))
    model(input_ids=one_token, use_cache=False, logits_to_keep=1)
