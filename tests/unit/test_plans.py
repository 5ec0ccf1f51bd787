"""Plans on disk: everything once an epoch for every world size, the same steps on any number of ranks."""

import numpy as np
import pytest

from gateau.errors import SettingsError, TableError
from gateau.schemas import PLAN
from gateau.tables import read_rows, write_rows
from gateau.training.batching import PLANS
from gateau.training.plans import PlanOptions, describe_plan, make_plan, read_plan, write_plan


def options(method="step_pack", **changes):
    return PlanOptions(
        **{"method": method, "epochs": 2, "sequences_per_step": 24, "token_budget": 300, "seed": 0, **changes}
    )


LENGTHS = np.random.default_rng(0).integers(1, 290, 130).tolist()
SEQUENCES = [2 * n for n in range(130)]  # rows of the mixture; those between are held out


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_a_plan_comes_back_from_disk_with_everything_once_an_epoch(tmp_path, method, world_size):
    plan = make_plan(LENGTHS, options(method), world_size)
    write_plan(tmp_path / "plan.parquet", plan, SEQUENCES, LENGTHS)
    read = read_plan(tmp_path / "plan.parquet")
    assert (read.options, read.world_size, read.epochs) == (plan.options, world_size, plan.epochs)
    for epoch in (0, 1):
        steps = [step for step, of in zip(read.steps, read.epochs, strict=True) if of == epoch]
        assert sorted(n for step in steps for n in step.sequences) == SEQUENCES
    rows = read_rows(tmp_path / "plan.parquet", PLAN)
    assert all(row["n_tokens"] == sum(LENGTHS[n // 2] for n in row["sequences"]) <= 300 for row in rows)


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_other_ranks_get_the_same_steps(method, world_size):
    plan = make_plan(LENGTHS, options(method), 4)
    other = plan.for_world(world_size, LENGTHS)
    assert [sorted(step.sequences) for step in other.steps] == [sorted(step.sequences) for step in plan.steps]
    assert other.composition_digest() == plan.composition_digest()
    for step in other.steps:
        assert {len(rank) for rank in step.ranks} == {step.n_micro_steps}
        assert len(step.ranks) == world_size
        assert all(sum(LENGTHS[n] for n in batch) <= 300 for rank in step.ranks for batch in rank)


def test_step_pack_forms_its_steps_whatever_the_world_and_the_budget():
    digests = {
        make_plan(LENGTHS, options(token_budget=budget), world_size).composition_digest()
        for world_size in (1, 3, 8)
        for budget in (290, 5000)
    }
    assert len(digests) == 1
    assert make_plan(LENGTHS, options(seed=1), 1).composition_digest() not in digests


def test_statistics_tell_what_packing_saves():
    packed, sorted_ = (
        describe_plan(make_plan(LENGTHS, options(method), 2), LENGTHS) for method in ("step_pack", "sort")
    )
    assert packed["micro_steps"] < sorted_["micro_steps"] == sum(-(-n // 2) for n in [24] * 5 + [10]) * 2
    assert packed["tokens"] == 2 * sum(LENGTHS)
    assert packed["dense_padding"] == pytest.approx(1 - sum(LENGTHS) / (130 * max(LENGTHS)))
    assert 0.9 < packed["balance"] <= 1


def test_a_lost_step_is_noticed(tmp_path):
    write_plan(tmp_path / "plan.parquet", make_plan(LENGTHS, options(), 2), SEQUENCES, LENGTHS)
    rows = [row for row in read_rows(tmp_path / "plan.parquet", PLAN) if row["step"] != 1]
    write_rows(tmp_path / "less.parquet", PLAN, rows, metadata={"world_size": "2", "options": "{}"})
    with pytest.raises(TableError, match="step 1 is missing"):
        read_plan(tmp_path / "less.parquet")


def test_only_sort_needs_a_divisible_step():
    make_plan(LENGTHS, options(), 5)
    with pytest.raises(SettingsError, match="24 sequences cannot be shared evenly by 5 ranks"):
        make_plan(LENGTHS, options("sort"), 5)
