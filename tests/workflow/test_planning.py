"""How the time and memory of ``snakemake -n`` grow with a run; ``make bench`` prints more of it."""

import pytest

from planning import large_config, plan

pytestmark = [pytest.mark.workflow, pytest.mark.alone]


@pytest.mark.parametrize(("shards", "megabytes"), [(600, 400), pytest.param(3334, 600, marks=pytest.mark.long)])
def test_planning_grows_with_the_jobs_and_not_with_their_square(tmp_path, shards, megabytes):
    """Up to 10 000 jobs of passes, with eight experiments and four benchmarks.

    Seconds differ from machine to machine, so two plans are compared. Planning has a fixed part, so four times the
    shards must take less than three times as long.
    """
    few, many = (plan(tmp_path, large_config(tmp_path, number)) for number in (shards // 4, shards))
    print(few, many, sep="\n")
    assert many.shard_jobs == 3 * shards
    assert many.cpu < 3 * few.cpu, (few, many)
    assert many.peak < megabytes * 1e6, many
