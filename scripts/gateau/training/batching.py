"""The batch plan: which sequences each rank trains on in each micro-step, fixed before training from lengths alone.

``sort``       one sequence per rank and micro-step; sorted by length, cut into groups of one sequence per rank, groups
               permuted (the released recipe, except that it drops the longest sequences and this drops none)
``pack``       sequences in random order packed next-fit up to the token budget (the released packing)
``step_pack``  the steps of ``sort`` on eight ranks, the sequences of each step packed onto the ranks up to the token
               budget: the same sequences per step and so the same loss, in far fewer micro-steps. Which sequences form
               a step does not depend on the world size.

Every rank runs the same number of micro-steps in a step: sharded optimisers call collectives in each of them.
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
_NEIGHBOURS = 8


@dataclass(frozen=True)
class Step:
    """One optimiser step: ``ranks[r][m]`` are the sequences that rank r packs into its micro-step m.

    A micro-batch is empty only where a step has fewer sequences than ranks.
    """

    ranks: list[list[MicroBatch]]

    @property
    def sequences(self) -> list[int]:
        """All sequences of the step."""
        return [sequence for rank in self.ranks for batch in rank for sequence in batch]

    @property
    def n_micro_steps(self) -> int:
        """Micro-steps, the same on every rank."""
        return len(self.ranks[0])


@dataclass(frozen=True)
class PlanStatistics:
    """What a plan costs.

    ``fill`` is tokens / (micro-batches x budget), ``balance`` the mean work of the ranks / that of the busiest.
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
    """Plan one epoch: every sequence exactly once, deterministic in all arguments, groups reshuffled per epoch.

    Args:
        lengths: tokens of each sequence; a sequence is known by its place here.
        world_size: ranks that train.
        token_budget: most tokens of a packed micro-batch.
        sequences_per_step: global batch in sequences; the last step may hold fewer. For ``pack`` it is kept on average.

    Raises:
        SettingsError: an unknown method, a sequence longer than the budget, or a global batch that the ranks cannot
            share.
    """
    if method not in PLANS:
        raise SettingsError(f"unknown batch plan {method!r}; choose one of {', '.join(PLANS)}")
    if method == "sort" and sequences_per_step % world_size:
        raise SettingsError(
            f"plan.sequences_per_step: {sequences_per_step} sequences cannot be shared evenly by {world_size} ranks; "
            "choose a multiple"
        )
    if too_long := [number for number, length in enumerate(lengths) if length > token_budget]:
        longest = max(lengths)
        raise SettingsError(
            f"{len(too_long)} sequences are longer than the budget of {token_budget} tokens (the longest: {longest}); "
            "raise plan.token_budget or lower tokens.max_length"
        )
    rng = np.random.default_rng([seed, epoch])
    if method == "pack":
        return _pack(lengths, rng, world_size, token_budget, sequences_per_step)
    group = world_size if method == "sort" else math.gcd(_NEIGHBOURS, sequences_per_step)
    steps = _sorted_steps(lengths, rng, group, sequences_per_step)
    if method == "sort":
        return [_one_per_rank(groups, world_size) for groups in steps]
    return [_pack_step([n for group in groups for n in group], lengths, world_size, token_budget) for groups in steps]


def deal_out(sequences: Sequence[int], lengths: Sequence[int], method: str, world_size: int, token_budget: int) -> Step:
    """One step of these sequences on any number of ranks: same sequences, same loss, other ranks than planned for."""
    if method != "sort":
        return _pack_step(list(sequences), lengths, world_size, token_budget)
    order = sorted(sequences, key=lambda number: (lengths[number], number))
    groups = [order[start : start + world_size] for start in range(0, len(order), world_size)]
    return _one_per_rank(groups, world_size)


def _sorted_steps(
    lengths: Sequence[int], rng: np.random.Generator, group_size: int, sequences_per_step: int
) -> list[list[MicroBatch]]:
    """Groups of neighbours in length, permuted and dealt out to steps; the last may be small."""
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


def _pack(
    lengths: Sequence[int], rng: np.random.Generator, world_size: int, token_budget: int, sequences_per_step: int
) -> list[Step]:
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
        Step([_level(step[rank::world_size], -(-len(step) // world_size)) for rank in range(world_size)])
        for step in steps
    ]


def _pack_step(sequences: MicroBatch, lengths: Sequence[int], world_size: int, token_budget: int) -> Step:
    """Longest first to the rank with the least work, then first-fit into micro-batches, their number made equal."""
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
    return Step([_level(batches, micro_steps) for batches in ranks])


def _level(batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """The same sequences in ``count`` micro-batches: batches of several are split before empty ones are added."""
    batches = [list(batch) for batch in batches]
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda n: len(batches[n]), default=None)
        if largest is None or len(batches[largest]) < 2:
            batches.append([])
        else:
            batches.append([batches[largest].pop()])
    return batches


def plan_statistics(steps: Sequence[Step], lengths: Sequence[int], token_budget: int) -> PlanStatistics:
    """Counts, fill and balance of a plan."""
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
