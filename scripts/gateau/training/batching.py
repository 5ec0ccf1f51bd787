"""The batch plan: the sequences that each rank trains on in each micro-step.

The plan is made before training and depends only on the lengths of the sequences. There are three methods:

``sort``       Each micro-step has one sequence per rank. The sequences are sorted by length and cut into groups of one
               sequence per rank, and the groups are permuted. (The released recipe also drops the longest sequences;
               this one drops none.)
``pack``       Sequences in random order are packed next-fit up to the token budget (the released packing).
``step_pack``  Takes the steps of ``sort`` on eight ranks and packs the sequences of each step onto the ranks, up to the
               token budget. The sequences of each step, and thus its loss, are the same as with ``sort``, in far fewer
               micro-steps. They do not depend on the world size.

In each step, all ranks run the same number of micro-steps, because sharded optimisers call collectives in each of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateau.errors import SettingsError
from gateau.work import forward_cost

MicroBatch = list[int]
PLANS = ("sort", "pack", "step_pack")
_GROUP_SIZE = 8  # step_pack groups sequences as sort does on eight ranks


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes:
        ranks: ``ranks[r][m]`` are the sequences that rank r packs into its micro-batch m. A micro-batch is empty only
            if the rank has fewer sequences than the step has micro-steps.
    """

    ranks: list[list[MicroBatch]]

    @property
    def sequences(self) -> list[int]:
        """All sequences of the step, on all ranks."""
        return [sequence for rank in self.ranks for batch in rank for sequence in batch]

    @property
    def n_micro_steps(self) -> int:
        """Number of micro-steps, which is the same on every rank."""
        return len(self.ranks[0])


@dataclass(frozen=True)
class PlanStatistics:
    """The cost of a plan.

    Attributes:
        steps: optimiser steps.
        micro_steps: micro-steps of all optimiser steps.
        sequences: sequences of all steps.
        tokens: tokens of all steps.
        fill: tokens / (micro-batches x token budget).
        balance: mean work of the ranks / work of the busiest rank, over all micro-steps.
    """

    steps: int
    micro_steps: int
    sequences: int
    tokens: int
    fill: float
    balance: float


def plan_epoch(
    lengths: Sequence[int],
    method: str,
    *,
    world_size: int,
    token_budget: int,
    sequences_per_step: int,
    seed: int,
    epoch: int,
) -> list[Step]:
    """Plan one epoch, in which every sequence occurs exactly once. The plan is deterministic in all arguments.

    Args:
        lengths: tokens of each sequence. The plan identifies a sequence by its position in this list.
        method: one of :data:`PLANS`.
        world_size: number of ranks that train.
        token_budget: maximum tokens of a packed micro-batch.
        sequences_per_step: global batch size in sequences; the last step may have fewer. With ``pack``, this is only
            the average.
        seed: seed of the random order.
        epoch: number of the epoch, from 0; every epoch has another random order.

    Raises:
        SettingsError: if the method is unknown, a sequence is longer than the token budget, or the global batch cannot
            be shared evenly by the ranks.
    """
    if method not in PLANS:
        raise SettingsError(f"unknown batch plan {method!r}; choose one of {', '.join(PLANS)}")
    if method == "sort" and sequences_per_step % world_size:
        raise SettingsError(
            f"plan.sequences_per_step: {sequences_per_step} sequences cannot be shared evenly by {world_size} ranks; "
            f"choose a multiple of {world_size}"
        )
    if too_long := [number for number, length in enumerate(lengths) if length > token_budget]:
        longest = max(lengths)
        raise SettingsError(
            f"{len(too_long)} sequences are longer than plan.token_budget, which is {token_budget} tokens (the longest "
            f"has {longest}); raise plan.token_budget or lower tokens.max_length"
        )
    rng = np.random.default_rng([seed, epoch])
    if method == "pack":
        return _packed_steps(lengths, rng, world_size, token_budget, sequences_per_step)
    group = world_size if method == "sort" else math.gcd(_GROUP_SIZE, sequences_per_step)
    steps = _sorted_steps(lengths, rng, group, sequences_per_step)
    if method == "sort":
        return [_one_per_rank(groups, world_size) for groups in steps]
    return [_pack_step([n for group in groups for n in group], lengths, world_size, token_budget) for groups in steps]


def assign_to_ranks(
    sequences: Sequence[int], lengths: Sequence[int], method: str, world_size: int, token_budget: int
) -> Step:
    """Return one step that trains these sequences on any number of ranks.

    The loss of a step depends only on its sequences, so a plan can be carried over to another number of ranks.
    """
    if method != "sort":
        return _pack_step(list(sequences), lengths, world_size, token_budget)
    order = sorted(sequences, key=lambda number: (lengths[number], number))
    groups = [order[start : start + world_size] for start in range(0, len(order), world_size)]
    return _one_per_rank(groups, world_size)


def _sorted_steps(
    lengths: Sequence[int], rng: np.random.Generator, group_size: int, sequences_per_step: int
) -> list[list[MicroBatch]]:
    """Return the groups of each step: ``group_size`` sequences of similar length per group, in random order.

    The last group and the last step may be smaller.
    """
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    whole = len(order) // group_size * group_size
    groups = [order[start : start + group_size] for start in range(0, whole, group_size)]
    groups = [groups[number] for number in rng.permutation(len(groups))]
    if whole < len(order):
        groups.append(order[whole:])
    per_step = sequences_per_step // group_size
    return [groups[start : start + per_step] for start in range(0, len(groups), per_step)]


def _one_per_rank(groups: list[MicroBatch], world_size: int) -> Step:
    return Step([[group[rank : rank + 1] for group in groups] for rank in range(world_size)])


def _packed_steps(
    lengths: Sequence[int], rng: np.random.Generator, world_size: int, token_budget: int, sequences_per_step: int
) -> list[Step]:
    """Pack the sequences in random order, next-fit, and share the packs among steps and ranks."""
    packs: list[MicroBatch] = []
    room = 0
    for sequence in rng.permutation(len(lengths)).tolist():
        if lengths[sequence] > room:
            packs.append([])
            room = token_budget
        packs[-1].append(sequence)
        room -= lengths[sequence]
    micro_steps = max(round(len(packs) * sequences_per_step / max(len(lengths), 1) / world_size), 1)
    size = micro_steps * world_size
    steps = [packs[start : start + size] for start in range(0, len(packs), size)]
    return [
        Step(
            [_equalise_micro_batches(step[rank::world_size], -(-len(step) // world_size)) for rank in range(world_size)]
        )
        for step in steps
    ]


def _pack_step(sequences: MicroBatch, lengths: Sequence[int], world_size: int, token_budget: int) -> Step:
    """Assign each sequence, longest first, to the rank with the least work, and pack it first-fit there."""
    loads = [(0.0, rank) for rank in range(world_size)]
    ranks: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    rooms: list[list[int]] = [[] for _ in range(world_size)]
    for sequence in sorted(sequences, key=lambda number: (-lengths[number], number)):
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + forward_cost(lengths[sequence]), rank))
        place = next((n for n, room in enumerate(rooms[rank]) if lengths[sequence] <= room), None)
        if place is None:
            place = len(ranks[rank])
            ranks[rank].append([])
            rooms[rank].append(token_budget)
        ranks[rank][place].append(sequence)
        rooms[rank][place] -= lengths[sequence]
    micro_steps = max(map(len, ranks))
    return Step([_equalise_micro_batches(batches, micro_steps) for batches in ranks])


def _equalise_micro_batches(batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """Return the same sequences in ``count`` micro-batches.

    Micro-batches with several sequences are split first; empty ones are added only if none is left to split.
    """
    batches = [list(batch) for batch in batches]
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda n: len(batches[n]), default=None)
        if largest is None or len(batches[largest]) < 2:
            batches.append([])
        else:
            batches.append([batches[largest].pop()])
    return batches


def plan_statistics(steps: Sequence[Step], lengths: Sequence[int], token_budget: int) -> PlanStatistics:
    """Compute the cost of a plan.

    Args:
        steps: the steps of the plan.
        lengths: tokens of each sequence.
        token_budget: maximum tokens of a packed micro-batch.
    """
    sequences = [sequence for step in steps for sequence in step.sequences]
    tokens = sum(lengths[sequence] for sequence in sequences)
    micro_steps = sum(step.n_micro_steps for step in steps)
    busy = total = 0.0
    for step in steps:
        for micro in range(step.n_micro_steps):
            work = [sum(forward_cost(lengths[n]) for n in rank[micro]) for rank in step.ranks]
            busy, total = busy + sum(work) / len(work), total + max(work)
    world_size = len(steps[0].ranks) if steps else 1
    return PlanStatistics(
        steps=len(steps),
        micro_steps=micro_steps,
        sequences=len(sequences),
        tokens=tokens,
        fill=tokens / max(micro_steps * world_size * token_budget, 1),
        balance=busy / total if total else 1.0,
    )
