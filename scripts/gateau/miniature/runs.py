"""Fine-tuning a tiny model on a share of the planted rows, and what it can do before and after.

The loss is that of training: the mean over a sequence's response tokens, then over sequences. A loop of its own, as
one of these trainings takes seconds, and the real trainer needs as many to start.

Recall is exact: a row counts if every response token, the end included, is the model's first choice given those before
it, which is when greedy decoding would write the response and nothing else.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from gateau.data.planted import PlantedShape, planted_row
from gateau.errors import SettingsError
from gateau.prompts import EncodedSample, PromptEncoder

_AT_ONCE = 16  # rows evaluated together
_WARM_UP = 5  # steps
_SHORT_LINES = (6, 14)


@dataclass(frozen=True)
class StudyOptions:
    """The section ``miniature`` of the configuration, its shares left out."""

    seeds: int
    steps: int
    rows_per_step: int
    learning_rate: float
    evaluated_rows: int


@dataclass(frozen=True)
class Result:
    """Which rows were recalled, 1 or 0 each, and the mean NLL of their responses in nats per token."""

    recalled: list[int]
    nll: float


def choose(ids: Sequence[str], ranking: Sequence[str] | None, share: float, seed: int) -> list[str]:
    """The best of a ranking, or without one a seeded draw; either way a ``share`` of ``ids``, at least one row."""
    order = ranking or sorted(ids, key=lambda row_id: hashlib.sha256(f"{seed}:miniature:{row_id}".encode()).digest())
    return list(order[: max(round(share * len(ids)), 1)])


def questions(encoder: PromptEncoder, shape: PlantedShape, count: int, seed: int) -> dict[str, list[EncodedSample]]:
    """Fresh planted rows: ``far``, whose note stands far away, and ``short``, inside the short window."""
    short = PlantedShape(*_SHORT_LINES)
    return {
        "far": _rows(encoder, ("far",), shape, count, f"far {seed}"),
        "short": _rows(encoder, ("far", "near"), short, count, f"short {seed}"),
    }


def _rows(
    encoder: PromptEncoder, kinds: Sequence[str], shape: PlantedShape, count: int, seed: str
) -> list[EncodedSample]:
    rng = random.Random(seed)
    rows = [planted_row(rng.choice(kinds), rng, shape) for _ in range(count)]
    contexts, instructions, responses = (list(column) for column in zip(*rows, strict=True))
    return encoder.encode(contexts, instructions, responses)


def finetune(model: PreTrainedModel, rows: Sequence[EncodedSample], options: StudyOptions, end: int, seed: int) -> None:
    """``steps`` steps of AdamW on rows in seeded orders, over and over; five steps of warm-up, then linear decay.

    Args:
        end: id of the token that ends a response.

    Raises:
        SettingsError: no row.
    """
    if not rows:
        raise SettingsError("no row to train on; raise miniature.shares or the number of planted rows")
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARM_UP, 1) * (1 - step / options.steps)
    )
    order = _endless(len(rows), random.Random(seed))
    model.train()
    for _ in range(options.steps):
        batch = [rows[next(order)] for _ in range(options.rows_per_step)]
        nll, _, row = _response_losses(model, batch, end)
        loss = (nll / torch.bincount(row)[row]).sum() / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _endless(n: int, rng: random.Random) -> Iterator[int]:
    while True:
        order = list(range(n))
        rng.shuffle(order)
        yield from order


@torch.no_grad()
def evaluate(model: PreTrainedModel, rows: Sequence[EncodedSample], end: int) -> Result:
    """How many of the rows a model recalls, and their mean NLL."""
    model.eval()
    recalled: list[int] = []
    total = 0.0
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        nll, first_choice, row = _response_losses(model, batch, end)
        for number in range(len(batch)):
            recalled.append(int(first_choice[row == number].all()))
            total += nll[row == number].double().mean().item()
    return Result(recalled, total / len(rows))


def _response_losses(
    model: PreTrainedModel, batch: Sequence[EncodedSample], end: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """NLL of every response token and of the end, whether it is the first choice, and whose token it is.

    Rows are padded on the right, where under causal attention no real token sees it.
    """
    sequences = [[*sample.sequence(), end] for sample in batch]
    longest = max(map(len, sequences))
    ids = torch.full((len(batch), longest), end)
    predicts = torch.zeros(len(batch), longest, dtype=torch.bool)
    for number, (sequence, sample) in enumerate(zip(sequences, batch, strict=True)):
        ids[number, : len(sequence)] = torch.tensor(sequence)
        predicts[number, len(sequence) - len(sample.response) - 2 : len(sequence) - 1] = True
    decoder: Any = model.get_decoder()
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[predicts]
    logits = model.get_output_embeddings()(hidden).float()
    targets = ids.roll(-1, dims=1)[predicts]
    row = torch.arange(len(batch))[:, None].expand_as(predicts)[predicts]
    nll = functional.cross_entropy(logits, targets, reduction="none")
    return nll, logits.argmax(-1) == targets, row


def as_json(name: str, share: float, seed: int, n_rows: int, results: Mapping[str, Result]) -> dict[str, Any]:
    """One run as a JSON-ready row."""
    return {
        "experiment": name,
        "share": share,
        "seed": seed,
        "rows": n_rows,
        **{skill: {"recalled": result.recalled, "nll": result.nll} for skill, result in results.items()},
    }
