"""The batch plan on disk.

The plan is written before training, for one number of ranks (world size). Every rank reads it, and a training with
another number of ranks can use it, too.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import TableError
from gateau.schemas import PLAN
from gateau.tables import iterate_rows, read_metadata, write_rows
from gateau.training.batching import Step, assign_to_ranks, plan_epoch, plan_statistics


@dataclass(frozen=True)
class PlanOptions:
    """The settings of the section ``plan``. ``config/README.md`` describes each of them."""

    method: str
    epochs: int
    sequences_per_step: int
    token_budget: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """All optimiser steps of a training, in order, over the rows of a mixture.

    Attributes:
        options: the settings that the plan was made with.
        world_size: number of ranks.
        steps: the steps.
        epochs: the epoch of each step, from 0.
    """

    options: PlanOptions
    world_size: int
    steps: list[Step]
    epochs: list[int]

    def composition_digest(self) -> str:
        """Return a digest of the sequences of each step, which does not depend on how they are assigned to ranks.

        The loss of a step depends only on its sequences.
        """
        return settings_digest([sorted(step.sequences) for step in self.steps])

    def for_world(self, world_size: int, lengths: Sequence[int]) -> Plan:
        """Return the same steps on ``world_size`` ranks. ``lengths`` are the tokens of each row of the mixture."""
        if world_size == self.world_size:
            return self
        options = self.options
        steps = [
            assign_to_ranks(step.sequences, lengths, options.method, world_size, options.token_budget)
            for step in self.steps
        ]
        return Plan(options, world_size, steps, self.epochs)


def make_plan(lengths: Sequence[int], options: PlanOptions, world_size: int) -> Plan:
    """Plan all epochs.

    Args:
        lengths: tokens of each sequence.
        options: the settings of the plan.
        world_size: number of ranks.

    Raises:
        SettingsError: as :func:`gateau.training.batching.plan_epoch`.
    """
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
    """Write a plan as a table.

    Args:
        path: file to write.
        plan: a plan over positions in ``lengths``.
        sequences: for each of these positions, the row of the mixture to write.
        lengths: tokens of each sequence.
    """

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
    """Read a plan over the rows of a mixture.

    Raises:
        TableError: if a step is missing.
    """
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


def describe_plan(plan: Plan, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the settings and the cost of a plan, JSON-ready.

    ``dense_padding`` is for comparison: the share of padding if every row were padded to the longest one.
    """
    counted = asdict(plan_statistics(plan.steps, lengths, plan.options.token_budget))
    longest = max(lengths, default=1)
    return {
        **asdict(plan.options),
        "world_size": plan.world_size,
        **counted,
        "padding_tokens": 0,
        "dense_padding": 1 - sum(lengths) / (len(lengths) * longest) if lengths else 0.0,
    }
