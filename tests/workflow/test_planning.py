"""How long ``snakemake -n`` takes for a large run, and what it needs; ``make bench`` prints more of it."""

import pytest

from planning import large_config, plan

pytestmark = [pytest.mark.workflow, pytest.mark.alone]


@pytest.mark.parametrize(("shards", "seconds", "megabytes"), [(1000, 15, 400), (3334, 45, 600)])
def test_a_large_run_is_planned_soon(tmp_path, shards, seconds, megabytes):
    """1 000 shards of each pass, and 10 000 jobs of passes, with eight experiments and four benchmarks."""
    config = large_config(tmp_path, shards)
    made = plan(tmp_path, config)
    print(made)
    assert made.shard_jobs == 3 * shards
    # Snakemake plans on one core and waits for nothing: where the clock says much more, others had that core
    assert min(made.wall, 1.5 * made.cpu) < seconds, made
    assert made.peak < megabytes * 1e6, made
