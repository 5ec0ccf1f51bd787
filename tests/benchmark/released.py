"""The released algorithm, restated: every logit, every pad, every attention weight.

Per sample it does two full passes with logits at every position, a pass padded to the window with the attention of
every layer materialised, and one forward per segment of the *window*, padding included. Needs only torch, transformers
and the library.
"""

from __future__ import annotations

from typing import Any

import torch

from gateau.prompts import EncodedSample
from gateau.work import DecoderShape, attention_flops, forward_flops, layer_flops, output_flops

PAD = 2


def random_sample(n_tokens: int, n_question: int, n_response: int, vocabulary: int) -> EncodedSample:
    """Return random ids of a sample with ``n_tokens`` tokens in all, and one token before the context."""
    torch.manual_seed(0)
    ids = torch.randint(3, vocabulary, (n_tokens,)).tolist()
    tail = n_question + n_response
    return EncodedSample(ids[:1], ids[1:-tail], ids[-tail:-n_response], ids[-n_response:])


@torch.no_grad()
def released_passes(fast: Any, slow: Any, sample: EncodedSample, window: int, segment: int, batch_tokens: int) -> None:
    """Run the released algorithm on one sample.

    Args:
        fast: the model with the attention backend of all passes but one.
        slow: the same model with eager attention, which returns its weights.
        sample: the sample.
        window: tokens that the sample is padded to.
        segment: tokens of a segment.
        batch_tokens: most tokens of a batch of segments.
    """
    device, n_response = fast.device, len(sample.response)
    whole = torch.tensor([sample.sequence()], device=device)
    for _ in ("short", "long"):
        logits = fast(whole, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(logits[0, :-1], whole[0, 1:], reduction="none")
        del logits
    padded = torch.full((1, window), PAD, device=device)
    padded[0, -whole.shape[1] :] = whole
    attentions = slow(padded, use_cache=False, output_attentions=True).attentions
    torch.stack([layer[0, :, -n_response:].mean((0, 1)) for layer in attentions]).mean(0)
    del attentions
    n_segments = window // segment
    context = torch.full((n_segments * segment,), PAD, device=device)
    kept = sample.context[: len(context)]
    context[: len(kept)] = torch.tensor(kept, device=device)
    tail = torch.tensor(sample.question + sample.response, device=device).expand(n_segments, -1)
    sequences = torch.cat([context.view(n_segments, segment), tail], 1)
    for batch in sequences.split(max(batch_tokens // sequences.shape[1], 1)):
        logits = fast(batch, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        del logits


def released_flops(shape: DecoderShape, tokens: int, tail: int, window: int, segment: int) -> float:
    """Return the operations of the released algorithm, with causal attention wherever its backend could have it.

    The padded pass materialises all weights, and so computes all pairs. ``tail`` is question and response.
    """
    whole = 2 * forward_flops(shape, tokens, tokens)
    all_pairs = 4.0 * shape.query_width * shape.layers * window**2
    padded = layer_flops(shape, window) + all_pairs + output_flops(shape, window)
    one = segment + tail
    return (
        whole
        + padded
        + window // segment * (layer_flops(shape, one) + attention_flops(shape, one) + output_flops(shape, one))
    )
