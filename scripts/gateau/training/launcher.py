"""Starts the ranks of a training on this machine, or on the nodes of a SLURM job, and stops them as one.

The usual launchers kill ranks 30 seconds after a SIGTERM. A rank at 64k tokens may need minutes to finish its step and
save: here signals are passed on and the ranks take their time. If one rank dies the others, which would wait for it for
ever, are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import NoReturn

from gateau.errors import SettingsError, TrainingError

logger = logging.getLogger(__name__)

PREEMPTED = 75  # as sysexits.h: try again later
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
_PORT = "GATEAU_RENDEZVOUS_PORT"  # set for the launchers that srun starts, one per node
_LAST_WORDS = 60  # seconds that the launchers of other nodes get once one has ended
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def is_rank() -> bool:
    """Whether this process was started as one rank of a training."""
    return "LOCAL_RANK" in os.environ


def end_rank(code: int) -> NoReturn:
    """End this process now, without Python's own end.

    What DeepSpeed gathers ahead of need may still be on its way then, and its thread aborts an interpreter that shuts
    down: a finished training would count as failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(arguments: Sequence[str], nodes: int, ranks_per_node: int) -> int:
    """Run ``python <arguments>`` once per rank and wait; the exit code is 0 only if all ranks succeed.

    Raises:
        SettingsError: several nodes outside a SLURM job.
        TrainingError: a rank died.
    """
    if nodes > 1 and _PORT not in os.environ:
        return _launch_nodes(arguments, nodes)
    address, port, first = _rendezvous(nodes, ranks_per_node)
    ranks = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={
                **os.environ, "RANK": str(first + local), "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(nodes * ranks_per_node), "LOCAL_WORLD_SIZE": str(ranks_per_node),
                "MASTER_ADDR": address, "MASTER_PORT": str(port),
            },
            preexec_fn=_die_with_parent,
            close_fds=False,  # a lease of GPUs lasts as long as the ranks
        )
        for local in range(ranks_per_node)
    ]  # fmt: skip
    _forward_signals(ranks)
    return _wait(ranks, first)


def _launch_nodes(arguments: Sequence[str], nodes: int) -> int:
    """One launcher per node, through ``srun``, inside the job's allocation."""
    if "SLURM_JOB_ID" not in os.environ:
        raise SettingsError(f"train.nodes is {nodes}, but this is not a SLURM job; use the slurm profile or nodes: 1")
    command = [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1",
        # each launcher has its node's share of the job for its ranks: no binding to one core, no step in the way
        "--cpu-bind=none", "--overlap",
        # not --kill-on-bad-exit: ranks that stop to go on later end with a code of their own, one after the other
        f"--wait={_LAST_WORDS}",
        sys.executable, *arguments,
    ]  # fmt: skip
    step = subprocess.Popen(command, env={**os.environ, _PORT: str(_free_port())}, stdin=subprocess.DEVNULL)
    # srun passes SIGUSR1 on, but takes a SIGTERM for the wish to kill the step at once
    _forward_signals([step], {signal.SIGTERM: signal.SIGUSR1})
    code = step.wait()
    return code if code >= 0 else 128 - code


def _rendezvous(nodes: int, ranks_per_node: int) -> tuple[str, int, int]:
    """Address and port of rank 0, and this node's first rank."""
    if nodes == 1:
        return "127.0.0.1", _free_port(), 0
    first_node = _scontrol("show", "hostnames", os.environ["SLURM_STEP_NODELIST"]).split()[0]
    # where SLURM itself reaches the node: its name need not be one that a resolver knows
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first_node))
    node = int(os.environ["SLURM_NODEID"])
    return address[1] if address else first_node, int(os.environ[_PORT]), node * ranks_per_node


def _scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


def _free_port() -> int:
    """A port that is free on this node; a job's first node, which starts all others, is that of rank 0."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _forward_signals(
    processes: Sequence[subprocess.Popen[bytes]], translated: Mapping[int, signal.Signals] = MappingProxyType({})
) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(translated.get(number, number))

    for number in _FORWARDED:
        signal.signal(number, forward)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], first: int) -> int:
    while True:
        codes = [rank.poll() for rank in ranks]
        if all(code == 0 for code in codes):
            return 0
        if all(code in (PREEMPTED, 0) for code in codes):
            return PREEMPTED
        failed = [number for number, code in enumerate(codes) if code not in (None, 0, PREEMPTED)]
        if failed:
            time.sleep(1)  # ranks that fail together get to say why
            for rank in ranks:
                rank.kill()
                rank.wait()
            code = ranks[failed[0]].returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise TrainingError(
                f"rank {first + failed[0]} {how} and the others were stopped; the reason is in the log above. "
                "Run again: training goes on from its newest checkpoint"
            )
        time.sleep(0.1)


def _die_with_parent() -> None:
    """In the new process: be killed when the launcher is, so that no rank is left behind (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
