"""Batch plans: nothing dropped, nothing doubled, budgets kept, the same loss whichever way sequences are packed."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateau.errors import SettingsError
from gateau.training.batching import PLANS, plan_epoch, plan_statistics

BUDGET = 1000


def plan(lengths, method="step_pack", world_size=2, epoch=0, seed=0, sequences_per_step=None, token_budget=BUDGET):
    return plan_epoch(
        lengths,
        method,
        world_size=world_size,
        token_budget=token_budget,
        sequences_per_step=sequences_per_step or 12 * world_size,
        seed=seed,
        epoch=epoch,
    )


def long_tailed(n, seed=0):
    """Lengths as in the mixed data: most short, a few near the budget."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(4, 1.2, n), 1, BUDGET).astype(int).tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, BUDGET), max_size=150),
    st.sampled_from(PLANS),
    st.sampled_from([1, 2, 3, 8]),
    st.integers(0, 3),
)
@example([1, 186, 212, 603, 810, 810], "step_pack", 3, 0)
def test_every_sequence_once_budgets_kept_ranks_in_step(lengths, method, world_size, epoch):
    steps = plan(lengths, method, world_size, epoch)
    assert sorted(n for step in steps for n in step.sequences) == list(range(len(lengths)))
    for step in steps:
        assert len(step.ranks) == world_size
        assert {len(rank) for rank in step.ranks} == {step.n_micro_steps}
        assert all(sum(lengths[n] for n in batch) <= BUDGET for rank in step.ranks for batch in rank)
        for rank in step.ranks:
            # a rank has an empty micro-batch only if no other of its own could be split
            assert all(rank) or max(map(len, rank)) < 2
    if method != "pack":
        assert [len(step.sequences) for step in steps[:-1]] == [12 * world_size] * (len(steps) - 1)


@pytest.mark.parametrize("method", PLANS)
def test_seeded_and_reshuffled_per_epoch(method):
    lengths = long_tailed(200)
    assert plan(lengths, method) == plan(lengths, method)
    assert plan(lengths, method) != plan(lengths, method, epoch=1)
    assert plan(lengths, method) != plan(lengths, method, seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_step_pack_has_the_steps_of_sort_on_eight_ranks(world_size):
    """The same sequences in every step, so the same loss, the mean over the step's sequences."""
    lengths = long_tailed(500)
    losses = np.random.default_rng(1).random(500)
    for sort, packed in zip(
        plan(lengths, "sort", 8, sequences_per_step=96),
        plan(lengths, "step_pack", world_size, sequences_per_step=96),
        strict=True,
    ):
        assert sorted(sort.sequences) == sorted(packed.sequences)
        parts = [sum(losses[n] for n in batch) for rank in packed.ranks for batch in rank]
        assert sum(parts) / len(packed.sequences) == pytest.approx(losses[sort.sequences].mean(), abs=1e-12)


def test_sort_puts_neighbours_in_length_side_by_side():
    lengths = long_tailed(96)
    ranked = sorted(lengths)
    for step in plan(lengths, "sort", world_size=8):
        for micro in range(step.n_micro_steps):
            group = sorted(lengths[n] for rank in step.ranks for n in rank[micro])
            start = ranked.index(group[0])
            assert any(ranked[k : k + 8] == group for k in range(max(start - 8, 0), start + 9))


def test_step_pack_needs_far_fewer_micro_steps_and_keeps_ranks_busy():
    lengths = long_tailed(4000)
    packed = plan_statistics(plan(lengths, "step_pack", world_size=8), lengths, BUDGET)
    sort = plan_statistics(plan(lengths, "sort", world_size=8), lengths, BUDGET)
    assert packed.sequences == sort.sequences == 4000
    assert packed.tokens == sort.tokens == sum(lengths)
    assert packed.micro_steps * 4 < sort.micro_steps
    assert packed.fill > 4 * sort.fill
    assert packed.balance > 0.9


def test_statistics_by_hand():
    steps = plan([600, 400, 500, 500], "step_pack", world_size=2, sequences_per_step=4)
    assert len(steps) == 1
    statistics = plan_statistics(steps, [600, 400, 500, 500], BUDGET)
    assert (statistics.steps, statistics.micro_steps, statistics.tokens, statistics.fill) == (1, 1, 2000, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bogus"}, "unknown batch plan"),
        ({"method": "sort", "sequences_per_step": 7}, "cannot be shared evenly by 2 ranks"),
        ({"token_budget": 10}, "longer than plan.token_budget, which is 10 tokens"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        plan([5, 50], **changes)


def test_the_time_of_planning_grows_with_the_number_of_sequences():
    def seconds(n):
        lengths = long_tailed(n)
        start = time.process_time()
        steps = plan(lengths, world_size=8)
        taken = time.process_time() - start
        assert sum(len(step.sequences) for step in steps) == n
        return taken

    small, large = (min(seconds(n) for _ in range(3)) for n in (10_000, 100_000))
    assert large < 40 * small, "ten times as many; a quadratic plan would take a hundred times as long"
