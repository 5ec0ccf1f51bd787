"""The slow truth: every score by its definition, with eager attention, full logits and one sequence at a time."""

import math

import torch


@torch.no_grad()
def nll(model, ids, n_response):
    """Mean NLL of the last ``n_response`` tokens, from full float64 log-probabilities."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    losses = []
    for position in range(len(ids) - n_response, len(ids)):
        row = logits[position - 1]
        losses.append(-(row[ids[position]] - torch.logsumexp(row, 0)).item())
    return sum(losses) / len(losses)


@torch.no_grad()
def attention_profiles(model, ids, n_response, first_key, last_key):
    """float64 ``[L, K]``: mean over heads and response rows of the materialised attention weights."""
    layers = model(torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    return torch.stack([layer[0].double().mean(0)[-n_response:].mean(0)[first_key:last_key] for layer in layers])


def segment_nlls(model, sample, length):
    """Mean NLL given each segment, one forward each."""
    segments = [sample.context[start : start + length] for start in range(0, len(sample.context), length)]
    return [
        nll(model, sample.head + segment + sample.question + sample.response, len(sample.response))
        for segment in segments
    ]


def contextual_awareness(segment_nll, profile, length):
    """CAS with softmax(-PPL) importance, in plain Python."""
    ppl = [math.exp(value) for value in segment_nll]
    weights = [math.exp(min(ppl) - value) for value in ppl]
    importance = [weight / sum(weights) for weight in weights]
    means = []
    for start in range(0, len(profile), length):
        piece = [float(value) for value in profile[start : start + length]]
        means.append(sum(piece) / len(piece))
    dot = sum(a * b for a, b in zip(importance, means, strict=True))
    return dot / math.sqrt(sum(a * a for a in importance)) / math.sqrt(sum(b * b for b in means))
