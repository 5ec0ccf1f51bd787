"""Fine-tuning of a tiny model on a share of the planted rows, and its recall before and after.

The loss is the one of training: the mean over a sequence's response tokens, then the mean over sequences. There is a
separate training loop here, because one of these trainings takes seconds, and the real trainer takes as long to start.

Recall is exact. A row is recalled if every response token, including the end, is the model's most probable token after
the tokens before it. Greedy decoding would then write exactly the response.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from gateau.draws import seeded_order
from gateau.errors import SettingsError
from gateau.planted import PlantedShape, planted_row
from gateau.prompts import EncodedSample, PromptEncoder

_AT_ONCE = 16  # rows evaluated together
_WARM_UP = 5  # steps
_SHORT_LINES = (6, 14)  # fewest and most lines of a row that fits the short window


@dataclass(frozen=True)
class StudyOptions:
    """The options of the section ``miniature`` of the configuration, except its shares."""

    seeds: int
    steps: int
    rows_per_step: int
    learning_rate: float
    evaluated_rows: int


@dataclass(frozen=True)
class Result:
    """Whether each row was recalled (1 or 0), and the mean NLL of the responses in nats per token."""

    recalled: list[int]
    nll: float


def choose(ids: Sequence[str], ranking: Sequence[str] | None, share: float, seed: int) -> list[str]:
    """Return a ``share`` of ``ids``, at least one: the first ones of a ranking, or a random draw.

    Args:
        ids: ids of all rows.
        ranking: ids in order, best first; None for the random draw.
        share: from 0 to 1.
        seed: of the random draw.
    """
    order = ranking or [ids[place] for place in seeded_order("miniature", ids, seed)]
    return list(order[: max(round(share * len(ids)), 1)])


def questions(encoder: PromptEncoder, shape: PlantedShape, count: int, seed: int) -> dict[str, list[EncodedSample]]:
    """Return new planted rows: ``far``, whose note is far away, and ``short``, which fit the short window."""
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
    """Train ``model`` with AdamW, with five steps of warm-up and then linear decay.

    Args:
        model: the model, which is changed.
        rows: the training rows. They are visited in random orders, again and again.
        options: numbers of steps and of rows per step, and the learning rate.
        end: id of the token that ends a response.
        seed: of the orders of rows.

    Raises:
        SettingsError: there are no rows.
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
    """Return which rows the model recalls, and the mean NLL of their responses. ``end`` is the id of the end token."""
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
    """Return the NLL of every response token and of the end, whether it is the most probable, and its row's number.

    Each result has one element per such token. Rows are padded on the right, so that under causal attention no real
    token attends to the padding.
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
    """Return one run as a JSON-ready row."""
    return {
        "experiment": name,
        "share": share,
        "seed": seed,
        "rows": n_rows,
        **{skill: {"recalled": result.recalled, "nll": result.nll} for skill, result in results.items()},
    }
