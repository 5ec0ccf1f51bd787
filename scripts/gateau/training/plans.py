"""The batch plan on disk: written before training for a world size, read by every rank, also of another world size."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gateau.errors import TableError
from gateau.schemas import PLAN
from gateau.tables import iterate_rows, read_metadata, write_rows
from gateau.training.batching import Step, deal_out, plan_epoch, plan_statistics


@dataclass(frozen=True)
class PlanOptions:
    """As configured under ``plan``."""

    method: str
    epochs: int
    sequences_per_step: int
    token_budget: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """All optimiser steps of a training, in order, over the rows of a mixture."""

    options: PlanOptions
    world_size: int
    steps: list[Step]
    epochs: list[int]

    def composition_digest(self) -> str:
        """Digest of which sequences form each step, on whatever ranks: all that the loss depends on."""
        return hashlib.sha256(json.dumps([sorted(step.sequences) for step in self.steps]).encode()).hexdigest()

    def for_world(self, world_size: int, lengths: Sequence[int]) -> Plan:
        """The same steps on another number of ranks."""
        if world_size == self.world_size:
            return self
        options = self.options
        steps = [
            deal_out(step.sequences, lengths, options.method, world_size, options.token_budget) for step in self.steps
        ]
        return Plan(options, world_size, steps, self.epochs)


def make_plan(lengths: Sequence[int], options: PlanOptions, world_size: int) -> Plan:
    """Plan all epochs. Raises SettingsError as :func:`gateau.training.batching.plan_epoch` does."""
    steps: list[Step] = []
    epochs: list[int] = []
    for epoch in range(options.epochs):
        planned = plan_epoch(
            lengths,
            options.method,
            world_size=world_size,
            token_budget=options.token_budget,
            sequences_per_step=options.sequences_per_step,
            seed=options.seed,
            epoch=epoch,
        )
        steps += planned
        epochs += [epoch] * len(planned)
    return Plan(options, world_size, steps, epochs)


def write_plan(path: str | os.PathLike[str], plan: Plan, sequences: Sequence[int], lengths: Sequence[int]) -> None:
    """Write a plan; its place number n is written as row ``sequences[n]`` of the mixture."""

    def rows() -> Iterator[dict[str, Any]]:
        for number, (epoch, step) in enumerate(zip(plan.epochs, plan.steps, strict=True)):
            for rank, batches in enumerate(step.ranks):
                for micro_step, batch in enumerate(batches):
                    yield {
                        "epoch": epoch, "step": number, "rank": rank, "micro_step": micro_step,
                        "sequences": [sequences[place] for place in batch],
                        "n_tokens": sum(lengths[place] for place in batch),
                    }  # fmt: skip

    metadata = {"world_size": str(plan.world_size), "options": json.dumps(asdict(plan.options), sort_keys=True)}
    write_rows(path, PLAN, rows(), row_group_size=4096, metadata=metadata)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan, its sequences as rows of the mixture. Raises TableError when steps are missing."""
    metadata = read_metadata(path, PLAN)
    world_size = int(metadata["world_size"])
    steps: list[Step] = []
    epochs: list[int] = []
    for number, group in itertools.groupby(iterate_rows(path, PLAN), key=lambda row: row["step"]):
        if number != len(steps):
            raise TableError(f"{path}: step {len(steps)} is missing; delete the file and rerun")
        ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
        for row in group:
            ranks[row["rank"]].append(row["sequences"])
        steps.append(Step(ranks))
        epochs.append(row["epoch"])
    return Plan(PlanOptions(**json.loads(metadata["options"])), world_size, steps, epochs)


def statistics(plan: Plan, lengths: Sequence[int]) -> dict[str, Any]:
    """What the plan costs, JSON-ready; ``dense_padding`` is the padding that rows as long as the longest would hold."""
    counted = asdict(plan_statistics(plan.steps, lengths, plan.options.token_budget))
    longest = max(lengths, default=1)
    return {
        **asdict(plan.options),
        "world_size": plan.world_size,
        **counted,
        "padding_tokens": 0,
        "dense_padding": 1 - sum(lengths) / (len(lengths) * longest) if lengths else 0.0,
    }
