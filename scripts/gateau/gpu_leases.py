"""Leases of GPUs on one machine, so that no two jobs of a user share a device.

Snakemake counts GPUs but does not tell a job which one to use, so all jobs would compute on the first GPU. With a
lease, a job locks the devices that it gets (``flock``, one file per device in one folder for all runs). Its process
then *becomes* the command, which inherits the locks. A lock is released when the last process that holds it ends, also
by ``kill -9``, so nothing needs to be cleaned up.

GPUs are granted first come, first served. Each device has a gate, which is a second lock. A job locks the gates of all
devices that it may use, always in the same order, and keeps them until it has its devices. Later jobs cannot take a
device in the meantime, so a job that needs two GPUs is not starved by a stream of smaller jobs. Only one job collects
devices at a time, so jobs cannot deadlock. The kernel grants a lock in the order in which processes began to wait. Runs
with disjoint devices never wait for each other.

A lock is named after the physical device, by its index in ``nvidia-smi``, whether CUDA_VISIBLE_DEVICES contains indices
or UUIDs. Commands get CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA uses the same indices. A MIG instance is a device of
its own, named by its UUID.

Nothing is leased inside a SLURM job, because SLURM assigns the devices, or on a machine without GPUs. Jobs of other
users and programs started without a lease are not detected.
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
REPORT_SECONDS = 60.0  # between two log lines of a waiting job
_POLL_SECONDS = (0.01, 0.5)  # shortest and longest pause of the one job that collects devices; others sleep at a gate
_SHOWN = 150  # characters of a command that messages show
_NETWORK = re.compile(
    r"nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|afs$|9p$|pvfs|orangefs|gfs2|ocfs2|panfs|wekafs|fuse\.(sshfs|s3fs)"
)


class Device(NamedTuple):
    """A GPU. ``name`` is its name in CUDA_VISIBLE_DEVICES. ``key`` is unique for each piece of hardware."""

    name: str
    key: str


def run_leased(gpus: int, command: Sequence[str]) -> NoReturn:
    """Wait until ``gpus`` GPUs are free, lease them, and replace this process by ``command``.

    Raises:
        SettingsError: the machine has fewer GPUs, or the lease folder cannot be used.
        OSError: the command cannot be run.
    """
    if gpus < 0:
        raise SettingsError(f"--gpus is {gpus}, but must be 0 or more")
    if not shutil.which(command[0]):  # report it before waiting
        raise FileNotFoundError(errno.ENOENT, "no such command", command[0])
    environment = dict(os.environ)
    if gpus and "SLURM_JOB_ID" not in environment and (devices := visible_devices(environment)):
        if gpus > len(devices):
            names = ",".join(device.name for device in devices)
            raise SettingsError(
                f"{gpus} GPUs were requested, but only {len(devices)} can be used ({names}): request fewer (lower "
                "train.ranks_per_node or gpus_per_job), or add more of the machine's GPUs to CUDA_VISIBLE_DEVICES"
            )
        folder = lease_folder(environment)
        start = time.monotonic()
        leased = acquire(devices, gpus, folder, command)
        names = ",".join(device.name for device in leased)
        logger.info("leased GPU %s after %.1f s", names, time.monotonic() - start)
        environment |= {"CUDA_VISIBLE_DEVICES": names, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        # leases inside the command divide its own devices among themselves; they must not wait for the command
        environment[FOLDER_VARIABLE] = str(folder / f"within-{os.getpid()}")
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals; the command must not
        signal.signal(ignored, signal.SIG_DFL)
    os.execvpe(command[0], list(command), environment)


def visible_devices(environment: Mapping[str, str]) -> list[Device]:
    """Return the devices that jobs may use: those in CUDA_VISIBLE_DEVICES if set, else all of ``nvidia-smi -L``."""
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
            # CUDA also accepts the beginning of a UUID
            key = next((key for uuid, key in listed if uuid.startswith(name)), name)
        else:
            break  # like CUDA: -1 or an unknown name ends the list
        devices.setdefault(key, Device(name, key))
    return list(devices.values())


def _listed_devices() -> list[tuple[str, str]]:
    """Return UUID and key of every device.

    A GPU that is split into MIG instances is replaced by these, because CUDA can only use the instances.
    """
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
    """Return the folder of the locks, and create it if necessary.

    It is the folder in GATEAU_LEASE_DIR, or one folder for all runs of this user. XDG_RUNTIME_DIR and TMPDIR are not
    used: under cron, ``nohup`` or a second login they may be missing or different, and the former is deleted at logout
    while runs continue.

    Raises:
        SettingsError: the folder belongs to another user, cannot be created, or is on a network file system.
    """
    own = environment.get(FOLDER_VARIABLE)
    if own:
        folder = Path(own).absolute()
    else:
        common = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
        folder = common / f"gateau-leases-{os.getuid()}"
    advice = f"set {FOLDER_VARIABLE} to a folder of your own on a local disk, the same for all runs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise SettingsError(f"cannot create the folder of GPU leases {folder} ({error.strerror}): {advice}") from error
    if not own and (not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077):
        raise SettingsError(f"other users have access to the folder of GPU leases {folder}: remove it, or {advice}")
    kind = file_system(folder)
    if _NETWORK.match(kind):
        raise SettingsError(
            f"the folder of GPU leases {folder} is on {kind}, a network file system, where a lock does not survive the "
            f"process that took it: {advice}"
        )
    return folder


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return Linux's name of the type of the file system of ``path``, or an empty string if it is unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = path.resolve()
    found = (0, "")
    for line in lines:  # if two file systems share a mount point, the later one hides the earlier
        fields, _, kind = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        if place.is_relative_to(point) and len(point) >= found[0]:
            found = len(point), kind.split()[0]
    return found[1]


def acquire(devices: Sequence[Device], gpus: int, folder: Path, command: Sequence[str] = ()) -> list[Device]:
    """Wait for ``gpus`` of ``devices`` and return them in the order of ``devices``.

    This process, and the command that replaces it, hold the locks. ``command`` is only used in messages.
    """
    label = shlex.join(command)
    holder = f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}: "
    holder += label if len(label) <= _SHOWN else f"{label[:_SHOWN]}…"
    leased: dict[Device, int] = {}
    with contextlib.ExitStack() as gates, _reports(devices, gpus, folder):
        # all jobs lock the gates in the same order, which rules out deadlocks
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
    """Return an open, locked descriptor of the file; None if another process holds the lock and ``wait`` is false."""
    try:
        import fcntl
    except ImportError as error:
        raise SettingsError("GPU leases need flock, which this system lacks: use Linux, or --gpus 0") from error
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
                f"cannot lock {file} ({error.strerror}): set {FOLDER_VARIABLE} to a folder on a local disk"
            ) from error
        # if a cleaner of temporary files has deleted the file, other jobs lock a new file of this name: try again
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{holder}\n".encode())
                return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _reports(devices: Sequence[Device], gpus: int, folder: Path) -> Iterator[None]:
    """Log from time to time which jobs hold the devices.

    This uses a thread, because a signal would interrupt the wait for a lock and cost the job its place in the queue.
    """
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
    """Describe who holds a device, or who is next in line for it."""
    for file, words in ((_lock_file(folder, device), "held by"), (_gate_file(folder, device), "next for")):
        if _is_locked(file):
            who = file.read_text(encoding="utf-8", errors="replace").strip() or "a job that is just starting"
            return f"{words} {'this job' if who.startswith(f'process {os.getpid()} ') else who}"
    return "free"


def _is_locked(file: Path) -> bool:
    import fcntl

    try:
        with file.open() as handle:
            # released at once; a job that polls at this moment gets the device at its next poll
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
