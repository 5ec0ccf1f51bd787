"""The cluster, for all tests of this folder."""

from pathlib import Path

import pytest

from slurm.cluster import Unavailable, job_processes, running_cluster


@pytest.fixture(scope="session")
def cluster():
    """A running SLURM; where there can be none the tests are skipped, and say why."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("real GPUs would be taken for the cluster's pretended ones")
    try:
        running = running_cluster()
        logs = running.__enter__()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield logs
    running.__exit__(None, None, None)
    assert not job_processes(logs)
