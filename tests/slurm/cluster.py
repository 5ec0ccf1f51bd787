"""A real SLURM on one machine: two virtual nodes, gpu1 and gpu2, of four pretended GPUs each.

Debian's packages are installed where they are missing, and stay. The daemons, what jobs have left behind and the files
in ``/etc/slurm`` end with the tests; daemons also die with the process that started them.
``python tests/slurm/cluster.py COMMAND`` runs a command beside such a cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

SETTINGS = Path("/etc/slurm")
NODES = ("gpu1", "gpu2")
GPUS_PER_NODE = 4
_MARK = "# written by tests/slurm/cluster.py and removed when the tests end\n"
_LOCK = Path(tempfile.gettempdir()) / "gateau-slurm-tests.lock"
_NULL = os.makedev(1, 3)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

# Snakemake's plugin takes SLURM_CONF from its jobs' environment, so the file lies where SLURM looks for it. Memory and
# cores are pretended as well: the rules ask for what a 7B model needs.
_SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
KillWait=30
SlurmdParameters=config_overrides
StateSaveLocation={state}/slurmctld
SlurmctldPidFile={state}/slurmctld.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdSpoolDir={state}/%n
SlurmdPidFile={state}/%n.pid
SlurmdLogFile={state}/%n.log
GresTypes=gpu
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=1000000 Gres=gpu:{gpus}
NodeName=gpu2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=1000000 Gres=gpu:{gpus}
PartitionName=main Nodes=gpu[1-2] Default=YES MaxTime=INFINITE State=UP
"""
_GRES_CONF = "NodeName=gpu[1-2] Name=gpu File={state}/device[0-{last}]\n"

Value = TypeVar("Value")


class Unavailable(Exception):
    """This machine cannot run the cluster, and why."""


def wait_for(what: str, attempt: Callable[[], Value], seconds: float, every: float = 0.1) -> Value:
    """The first true value of ``attempt``; TimeoutError if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := attempt()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return value


@contextlib.contextmanager
def running_cluster() -> Iterator[Path]:
    """Start the cluster and, in the end, stop it; yields the folder of its logs.

    Raises:
        Unavailable: it cannot run here.
    """
    if os.geteuid() != 0:
        raise Unavailable("a SLURM of one's own needs root")
    if "SLURM_CONF" in os.environ:
        raise Unavailable("SLURM_CONF names another cluster")
    with _sole_use(), contextlib.ExitStack() as stack:
        _install()
        state = Path(tempfile.mkdtemp(prefix="slurm-"))
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        try:
            _write_settings(state, stack)
            _start_munge(state, stack)
            stack.callback(_end_leftovers, state)  # once the daemons have ended, so that nothing more is started
            _start(["slurmctld", "-D"], state / "slurmctld.out", stack)
            for node in NODES:
                _start(["slurmd", "-D", "-N", node], state / f"{node}.out", stack)
            wait_for("idle nodes", _all_idle, 60)
        except (TimeoutError, OSError) as error:
            raise Unavailable(f"SLURM does not start: {error}\n{_tails(state)}") from error
        stack.callback(_cancel_all)
        yield state


def _install() -> None:
    programs = ("slurmctld", "slurmd", "sbatch", "munged", "munge")
    if all(shutil.which(name) for name in programs):
        return
    if not shutil.which("apt-get"):
        raise Unavailable("neither SLURM and munge nor apt-get are here")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        try:
            result = subprocess.run(
                ["apt-get", *arguments], env=quiet, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=180,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"apt-get {arguments[0]} took longer than 3 minutes") from error
        if result.returncode:
            raise Unavailable(f"apt-get {arguments[0]} failed: {result.stdout[-500:]}")


@contextlib.contextmanager
def _sole_use() -> Iterator[None]:
    """One such cluster at a time: its settings have one place."""
    with _LOCK.open("w") as lock:

        def acquired() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait_for("the other cluster's end", acquired, 600, every=1)
        except TimeoutError as error:
            raise Unavailable(f"another test run holds {_LOCK}") from error
        os.set_inheritable(lock.fileno(), False)
        yield


def _write_settings(state: Path, stack: contextlib.ExitStack) -> None:
    files = [SETTINGS / name for name in ("slurm.conf", "gres.conf")]
    for file in files:
        if file.exists() and not file.read_text().startswith(_MARK):
            raise Unavailable(f"{file} is somebody's own and stays as it is")
    for number in range(GPUS_PER_NODE):
        os.mknod(state / f"device{number}", stat.S_IFCHR | 0o600, _NULL)  # SLURM wants devices, and only looks at them
    values = {
        "state": state, "name": state.name, "host": socket.gethostname().split(".")[0], "ports": _free_ports(3),
        "gpus": GPUS_PER_NODE, "last": GPUS_PER_NODE - 1,
    }  # fmt: skip
    SETTINGS.mkdir(exist_ok=True)
    for file, text in zip(files, (_SLURM_CONF, _GRES_CONF), strict=True):
        stack.callback(file.unlink, missing_ok=True)
        file.write_text(_MARK + text.format(**values))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _start_munge(state: Path, stack: contextlib.ExitStack) -> None:
    """SLURM's messages are signed by munge, whose daemon may run already."""

    def answers() -> bool:
        return subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0

    if answers():
        return
    user = pwd.getpwnam("munge")
    for folder in ("/run/munge", "/var/lib/munge", "/var/log/munge"):
        Path(folder).mkdir(exist_ok=True, mode=0o755)
        os.chown(folder, user.pw_uid, user.pw_gid)
    _start(
        ["munged", "--foreground"], state / "munged.out", stack, user=user.pw_uid, group=user.pw_gid, extra_groups=[]
    )
    wait_for("munge", answers, 20)


def _start(command: list[str], log: Path, stack: contextlib.ExitStack, **options: Any) -> None:
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent,
            start_new_session=True, cwd=log.parent, **options,
        )  # fmt: skip
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _all_idle() -> bool:
    result = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %T"], capture_output=True, text=True, check=False)
    return set(result.stdout.splitlines()) == {f"{node} idle" for node in NODES}


def _cancel_all() -> None:
    """No job is left behind."""
    subprocess.run(["scancel", "--partition=main"], capture_output=True, check=False)
    with contextlib.suppress(TimeoutError):
        wait_for("the end of all jobs", _all_idle, 60)


def job_processes(state: Path) -> list[psutil.Process]:
    """What jobs of this cluster have started, and the keepers of their steps.

    SLURM puts the cluster's name into the environment of the former; the latter write their title over theirs, but stay
    in the folder of the daemon that started them.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            keeper = process.name() == "slurmstepd" and Path(process.cwd()).is_relative_to(state)
            if keeper or process.environ().get("SLURM_CLUSTER_NAME") == state.name:
                found |= {process, *process.children(recursive=True)}
    return list(found)


def _end_leftovers(state: Path) -> None:
    """End what has outlived its job: SLURM loses sight of a process whose parents die before it, as on cancelling."""

    def ended() -> bool:
        left = job_processes(state)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    with contextlib.suppress(TimeoutError):
        wait_for("the end of what jobs left", ended, 10)


def _tails(state: Path) -> str:
    """The ends of the daemons' logs."""
    logs = [*state.glob("*.log"), *state.glob("*.out")]
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-800:]}" for log in sorted(logs))


if __name__ == "__main__":
    with running_cluster():
        sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)
