"""Starts the ranks of a training on this machine, or on the nodes of a SLURM job, and stops them together.

Common launchers kill the ranks 30 seconds after a SIGTERM. At 64k tokens, a rank may need minutes to finish its step
and save a checkpoint. This launcher forwards signals to the ranks and waits until they end. If one rank dies, it kills
the others, because they would wait for the dead rank forever.
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

PREEMPTED = 75  # exit code EX_TEMPFAIL of sysexits.h: try again later
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
_PORT = "GATEAU_RENDEZVOUS_PORT"  # set for the launchers that srun starts, one per node
_SRUN_WAIT = 60  # seconds until srun ends the launchers of the other nodes after one has ended
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def is_rank() -> bool:
    """Tell whether this process was started as a rank of a training."""
    return "LOCAL_RANK" in os.environ


def end_rank(code: int) -> NoReturn:
    """End this process immediately, without the shutdown of the Python interpreter.

    A DeepSpeed prefetch of weights may still be running at this point. Its thread would abort the interpreter during
    the shutdown, and a finished training would count as failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(arguments: Sequence[str], nodes: int, ranks_per_node: int) -> int:
    """Run ``python <arguments>`` once per rank and wait for all ranks.

    Args:
        arguments: the script and its arguments.
        nodes: number of machines.
        ranks_per_node: number of processes on each machine.

    Returns:
        0 if all ranks succeed, :data:`PREEMPTED` if they stopped early after saving a checkpoint. With several nodes,
        the exit code of ``srun``.

    Raises:
        SettingsError: if there are several nodes, but no SLURM job.
        TrainingError: if a rank fails.
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
            close_fds=False,  # the ranks inherit the lease of GPUs, which lasts until they end
        )
        for local in range(ranks_per_node)
    ]  # fmt: skip
    _forward_signals(ranks)
    return _wait(ranks, first)


def _launch_nodes(arguments: Sequence[str], nodes: int) -> int:
    """Start one launcher per node with ``srun``, inside the job's allocation, and return the exit code."""
    if "SLURM_JOB_ID" not in os.environ:
        raise SettingsError(
            f"train.nodes is {nodes}, but this is not a SLURM job; use the slurm profile or set train.nodes: 1"
        )
    command = [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1",
        # each launcher uses all of the job's resources on its node: no binding to cores, no exclusive job step
        "--cpu-bind=none", "--overlap",
        # not --kill-on-bad-exit: ranks that stop after a checkpoint end one after the other with a code other than 0
        f"--wait={_SRUN_WAIT}",
        sys.executable, *arguments,
    ]  # fmt: skip
    step = subprocess.Popen(command, env={**os.environ, _PORT: str(_free_port())}, stdin=subprocess.DEVNULL)
    # srun forwards SIGUSR1, but kills the step at once on SIGTERM
    _forward_signals([step], {signal.SIGTERM: signal.SIGUSR1})
    code = step.wait()
    return code if code >= 0 else 128 - code


def _rendezvous(nodes: int, ranks_per_node: int) -> tuple[str, int, int]:
    """Return address and port of rank 0, and the number of this node's first rank."""
    if nodes == 1:
        return "127.0.0.1", _free_port(), 0
    first_node = _scontrol("show", "hostnames", os.environ["SLURM_STEP_NODELIST"]).split()[0]
    # the address that SLURM itself uses, because the node's name may not be resolvable
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first_node))
    node = int(os.environ["SLURM_NODEID"])
    return address[1] if address else first_node, int(os.environ[_PORT]), node * ranks_per_node


def _scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


def _free_port() -> int:
    """Return a port that is free on this node. In a job, this is the first node, where rank 0 will run."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _forward_signals(
    processes: Sequence[subprocess.Popen[bytes]], translated: Mapping[int, signal.Signals] = MappingProxyType({})
) -> None:
    """Forward SIGTERM and SIGUSR1 to the processes, each replaced by the signal that ``translated`` gives for it."""

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(translated.get(number, number))

    for number in _FORWARDED:
        signal.signal(number, forward)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], first: int) -> int:
    """Wait for all ranks and return the exit code. ``first`` is the number of the first of these ranks."""
    while True:
        codes = [rank.poll() for rank in ranks]
        if all(code == 0 for code in codes):
            return 0
        if all(code in (PREEMPTED, 0) for code in codes):
            return PREEMPTED
        failed = [number for number, code in enumerate(codes) if code not in (None, 0, PREEMPTED)]
        if failed:
            time.sleep(1)  # give ranks that fail at the same time a chance to log the reason
            for rank in ranks:
                rank.kill()
                rank.wait()
            code = ranks[failed[0]].returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise TrainingError(
                f"rank {first + failed[0]} {how}, and the others were stopped; the reason is in the log above. Run the "
                "same command again: training continues from its newest checkpoint"
            )
        time.sleep(0.1)


def _die_with_parent() -> None:
    """Make the kernel kill this process when its launcher dies, so that no rank is left behind (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
