"""Leases of GPUs on one machine: no two jobs of a user share a device, whatever started them.

Snakemake counts GPUs but tells no job which is its own, so that all would compute on the first. Here a job locks the
devices that it gets (``flock``, one file per device in one folder for all runs) and *becomes* its command, which
inherits the locks. They are free when the last process that has them ends, also by ``kill -9``; nothing has to be
cleaned up.

Who waits is served in turn. In front of each device stands a gate, a lock too. A job passes the gates of all devices
that it may use, in one order for all, and keeps them until it has its devices: later jobs cannot take what it collects,
so a job of two GPUs is not starved by a stream of smaller ones, and as only one job collects at a time, no two hold
what the other needs. The kernel serves who waits for a lock in the order of coming. Runs with disjoint devices never
meet.

A lock is named after the physical device: its index as ``nvidia-smi`` counts, whether CUDA_VISIBLE_DEVICES gives
indices or UUIDs. So that CUDA counts the same way, commands get CUDA_DEVICE_ORDER=PCI_BUS_ID. A MIG instance is a
device of its own, under its UUID.

Nothing is leased inside a SLURM job, where SLURM does it, and on a machine without GPUs. Other users' jobs, and
programs started without a lease, are not seen.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from gateau.errors import SettingsError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "GATEAU_LEASE_DIR"
REPORT_SECONDS = 60.0  # between two lines that say what a job waits for
_POLL_SECONDS = (0.01, 0.5)  # from, to: of the one job that collects devices; the others sleep at a gate
_SHOWN = 150  # characters of a command in messages
_NETWORK = re.compile(
    r"nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|afs$|9p$|pvfs|orangefs|gfs2|ocfs2|panfs|wekafs|fuse\.(sshfs|s3fs)"
)


class Device(NamedTuple):
    """A GPU: ``name`` as CUDA_VISIBLE_DEVICES takes it, ``key`` the same for the same piece of hardware."""

    name: str
    key: str


def run_leased(gpus: int, command: Sequence[str]) -> NoReturn:
    """Become ``command``, with as many GPUs of its own; waits until they are free.

    Raises:
        SettingsError: more GPUs than there are, or a lease folder that cannot be used.
        OSError: the command cannot be run.
    """
    if gpus < 0:
        raise SettingsError(f"--gpus is {gpus}; it must be 0 or more")
    if not shutil.which(command[0]):  # said before a wait, not after
        raise FileNotFoundError(errno.ENOENT, "no such command", command[0])
    environment = dict(os.environ)
    if gpus and "SLURM_JOB_ID" not in environment and (devices := visible_devices(environment)):
        if gpus > len(devices):
            names = ",".join(device.name for device in devices)
            raise SettingsError(
                f"{gpus} GPUs are asked for, but there are {len(devices)} ({names}): ask for fewer (for a training, "
                "lower train.ranks_per_node) or, if the machine has more, let CUDA_VISIBLE_DEVICES name them"
            )
        folder = lease_folder(environment)
        start = time.monotonic()
        leased = acquire(devices, gpus, folder, command)
        names = ",".join(device.name for device in leased)
        logger.info("leased GPU %s after %.1f s", names, time.monotonic() - start)
        environment |= {"CUDA_VISIBLE_DEVICES": names, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        # leases inside the command, if it takes any, share out what it has: they must not wait for the command itself
        environment[FOLDER_VARIABLE] = str(folder / f"within-{os.getpid()}")
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, for itself only
        signal.signal(ignored, signal.SIG_DFL)
    os.execvpe(command[0], list(command), environment)


def visible_devices(environment: Mapping[str, str]) -> list[Device]:
    """The devices that jobs may use: those of CUDA_VISIBLE_DEVICES if it is set, else all that nvidia-smi lists."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [Device(uuid if uuid.startswith("MIG-") else key, key) for uuid, key in _listed_devices()]
    devices: dict[str, Device] = {}
    listed: list[tuple[str, str]] | None = None
    for name in map(str.strip, given.split(",")):
        if name.isdecimal():
            key = str(int(name))
        elif name.startswith(("GPU-", "MIG-")):
            listed = _listed_devices() if listed is None else listed
            # CUDA takes the beginning of a UUID too
            key = next((key for uuid, key in listed if uuid.startswith(name)), name)
        else:
            break  # as CUDA: -1 or an unknown name ends the list
        devices.setdefault(key, Device(name, key))
    return list(devices.values())


def _listed_devices() -> list[tuple[str, str]]:
    """UUID and key of every device; of a GPU that is split into MIG instances, these, since CUDA sees no other."""
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("nvidia-smi -L: %s; no GPU is leased", error)
        return []
    if result.returncode:
        logger.warning("nvidia-smi -L: %s; no GPU is leased", (result.stdout + result.stderr).strip())
        return []
    devices: list[tuple[str, str]] = []
    for line in result.stdout.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            devices.append((gpu[2], gpu[1]))
        elif instance := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            if devices and devices[-1][0].startswith("GPU-"):
                devices.pop()
            devices.append((instance[1], instance[1]))
    return devices


def lease_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the locks, made if need be: one for all runs of this user, or that of GATEAU_LEASE_DIR.

    Not under XDG_RUNTIME_DIR or TMPDIR: cron, ``nohup`` and a second login may have none or others, and the former is
    deleted at logout while runs go on.

    Raises:
        SettingsError: it belongs to someone else, cannot be made, or lies on a network file system.
    """
    own = environment.get(FOLDER_VARIABLE)
    if own:
        folder = Path(own).absolute()
    else:
        common = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
        folder = common / f"gateau-leases-{os.getuid()}"
    advice = f"set {FOLDER_VARIABLE} to a folder of yours on a disk of this machine, the same for all runs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise SettingsError(f"the folder of GPU leases {folder} cannot be made ({error.strerror}): {advice}") from error
    if not own and (not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077):
        raise SettingsError(f"the folder of GPU leases {folder} is not yours alone: remove it, or {advice}")
    kind = file_system(folder)
    if _NETWORK.match(kind):
        raise SettingsError(
            f"the folder of GPU leases {folder} lies on {kind}, a network file system, where locks do not outlast the "
            f"process that took them: {advice}"
        )
    return folder


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that ``path`` lies on, as Linux calls it; empty where that is not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = path.resolve()
    found = (0, "")
    for line in lines:  # of two on one point, the later one is on top
        fields, _, kind = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        if place.is_relative_to(point) and len(point) >= found[0]:
            found = len(point), kind.split()[0]
    return found[1]


def acquire(devices: Sequence[Device], gpus: int, folder: Path, command: Sequence[str] = ()) -> list[Device]:
    """Wait for ``gpus`` of ``devices`` and return them, in their order; this process and what it becomes hold them."""
    label = shlex.join(command)
    holder = f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}: "
    holder += label if len(label) <= _SHOWN else f"{label[:_SHOWN]}…"
    leased: dict[Device, int] = {}
    with contextlib.ExitStack() as gates, _reports(devices, gpus, folder):
        # in one order for all, so that nobody waits in a circle
        for device in sorted(devices, key=lambda device: device.key):
            gate = _lock(_gate_file(folder, device), holder, wait=True)
            assert gate is not None
            gates.callback(os.close, gate)
        pause, longest = _POLL_SECONDS
        while True:
            for device in devices:
                if len(leased) < gpus and device not in leased:
                    descriptor = _lock(_lock_file(folder, device), holder, wait=False)
                    if descriptor is not None:
                        leased[device] = descriptor
            if len(leased) == gpus:
                break
            time.sleep(pause)
            pause = min(1.5 * pause, longest)
    for descriptor in leased.values():
        os.set_inheritable(descriptor, True)
    return [device for device in devices if device in leased]


def _lock_file(folder: Path, device: Device) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', device.key)}.lock"


def _gate_file(folder: Path, device: Device) -> Path:
    return _lock_file(folder, device).with_suffix(".gate")


def _lock(file: Path, holder: str, wait: bool) -> int | None:
    """An open descriptor of the file, locked; None if another holds it and we do not wait."""
    try:
        import fcntl
    except ImportError as error:
        raise SettingsError("GPU leases need flock, which this system does not have: use Linux, or --gpus 0") from error
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise SettingsError(
                f"{file} cannot be locked ({error.strerror}): set {FOLDER_VARIABLE} to a folder on a local disk"
            ) from error
        # a cleaner of temporary files may have removed it meanwhile: then others lock a new one of this name
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{holder}\n".encode())
                return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _reports(devices: Sequence[Device], gpus: int, folder: Path) -> Iterator[None]:
    """Say from time to time what is waited for. A thread: a signal would cost the job its place at the gate."""
    done = threading.Event()
    start = time.monotonic()

    def report() -> None:
        while not done.wait(REPORT_SECONDS):
            waited = time.monotonic() - start
            held = "; ".join(f"{device.name} {_holder(device, folder)}" for device in devices)
            logger.info("waiting for %d of %d GPUs for %.0f s: %s", gpus, len(devices), waited, held)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _holder(device: Device, folder: Path) -> str:
    """Who has a device, and else who is first in line for it, in words."""
    for file, words in ((_lock_file(folder, device), "held by"), (_gate_file(folder, device), "next for")):
        if _is_locked(file):
            who = file.read_text(encoding="utf-8", errors="replace").strip() or "a job that is just starting"
            return f"{words} {'this job' if who.startswith(f'process {os.getpid()} ') else who}"
    return "free"


def _is_locked(file: Path) -> bool:
    import fcntl

    try:
        with file.open() as handle:
            # given back at once; a job that comes in this moment finds the device a poll later
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
