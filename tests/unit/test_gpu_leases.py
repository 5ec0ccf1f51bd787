"""Leases of GPUs, with real processes and simulated devices: a lease only uses the names of devices and their locks."""

import contextlib
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from snakemake.profiles import ProfileConfigFileParser

from gateau import gpu_leases
from gateau.errors import SettingsError
from gateau.gpu_leases import Device, file_system, lease_folder, visible_devices

from helpers import ROOT

pytestmark = pytest.mark.alone

LEASE = [sys.executable, str(ROOT / "scripts/gpu_lease.py")]
LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-1)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc-2)
"""
SPLIT = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-0)
  MIG 3g.20gb     Device  0: (UUID: MIG-dddd)
  MIG 3g.20gb     Device  1: (UUID: MIG-eeee)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-1)
"""


class Machine:
    """Simulated devices with their own lease folder, and the jobs that are started on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, []
        self.leases, self.bin = folder / "leases", folder / "bin"
        # the machine that runs the tests may have GPUs, or be a node of a cluster
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_"))
        }
        self.environment["GATEAU_LEASE_DIR"] = str(self.leases)
        self.lists("")

    def lists(self, text: str, code: int = 0) -> None:
        """Make ``nvidia-smi -L`` print ``text`` and exit with ``code``."""
        self.bin.mkdir(exist_ok=True)
        (self.bin / "nvidia-smi").write_text(f"#!/bin/sh\nprintf %s {shlex.quote(text)}\nexit {code}\n")
        (self.bin / "nvidia-smi").chmod(0o755)
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"

    def start(self, gpus: int, script: str, devices: str | None = "0,1", **environment: str) -> subprocess.Popen[str]:
        """Start a job: a shell script under a lease."""
        visible = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        job = subprocess.Popen(
            [*LEASE, "--gpus", str(gpus), "--", "sh", "-c", script],
            env=self.environment | visible | environment, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.jobs.append(job)
        return job

    def run(self, gpus: int, script: str, *arguments: str, **environment: str) -> str:
        """Run a job, which must succeed, and return its output."""
        job = self.start(gpus, script, *arguments, **environment)
        out, error = job.communicate(timeout=30)
        assert job.returncode == 0, error
        return out.strip()

    def hold(self, gpus: int, *arguments: str) -> subprocess.Popen[str]:
        """Start a job that holds its devices until its input ends or it is killed."""
        job = self.start(gpus, "echo $CUDA_VISIBLE_DEVICES; exec sleep 60", *arguments)
        assert job.stdout is not None
        job.devices = job.stdout.readline().strip()
        return job

    def is_at_the_gate(self, job: subprocess.Popen[str], device: str = "0") -> bool:
        """Return whether the job waits at the gate of a device or has passed it."""
        links = []
        for link in Path(f"/proc/{job.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(link))
        return str(self.leases / f"{device}.gate") in links

    def await_in_line(self, job: subprocess.Popen[str], device: str) -> None:
        """Wait until the job has passed the gate of this device and collects devices."""
        gate = self.leases / f"{device}.gate"
        wait_for(lambda: gate.exists() and f"process {job.pid} " in gate.read_text())


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for job in machine.jobs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


def intervals(events: Path) -> list[tuple[int, int, list[str]]]:
    """Return start, end and devices of each job, in line numbers, as jobs append lines while they hold devices."""
    begun, finished = {}, []
    for place, line in enumerate(events.read_text().splitlines()):
        word, job, devices = line.split()
        if word == "start":
            begun[job] = place
        else:
            finished.append((begun.pop(job), place, devices.split(",")))
    assert not begun
    return finished


@pytest.mark.parametrize("devices", ["0,1", "0,1,2,3"])
def test_forty_jobs_at_once_share_no_device_and_none_starves(machine, devices):
    names = devices.split(",")
    script = (
        'echo "start $$ $CUDA_VISIBLE_DEVICES" >> events; sleep 0.05; echo "end $$ $CUDA_VISIBLE_DEVICES" >> events'
    )
    holder = machine.hold(len(names), devices)
    jobs = [machine.start(gpus, script, devices) for gpus in (1, 2, 2, 1) * 10]
    wait_for(lambda: all(map(machine.is_at_the_gate, jobs)), seconds=60)
    holder.kill()
    start = time.monotonic()
    for job in jobs:
        _, error = job.communicate(timeout=60)
        assert job.returncode == 0, error
        assert re.search(r"leased GPU \S+ after \S+ s", error)
    assert time.monotonic() - start < 30  # an upper bound of the longest wait; without other load it takes two seconds
    found = intervals(machine.folder / "events")
    assert sorted(len(held) for _, _, held in found) == [1] * 20 + [2] * 20
    assert all(set(held) <= set(names) and len(set(held)) == len(held) for _, _, held in found)
    for device in names:
        turns = sorted((begin, end) for begin, end, held in found if device in held)
        assert all(end < begin for (_, end), (begin, _) in pairwise(turns))
    last_begun = sorted(found)[-10:]
    assert {len(held) for _, _, held in last_begun} == {1, 2}, "jobs of two do not have to wait for all others"


def test_a_job_of_two_goes_before_later_jobs_of_one(machine):
    """A stream of small jobs could always use the one free device, but a job of two that came earlier goes first."""
    script = 'echo "$0 $CUDA_VISIBLE_DEVICES" >> events'
    holder = machine.hold(1)
    two = machine.start(2, script.replace("$0", "two"))
    machine.await_in_line(two, "1")
    ones = [machine.start(1, script.replace("$0", "one")) for _ in range(4)]
    time.sleep(0.5)
    assert not (machine.folder / "events").exists()
    holder.kill()
    assert [job.wait(timeout=20) for job in (two, *ones)] == [0] * 5
    lines = (machine.folder / "events").read_text().splitlines()
    assert lines[0] == "two 0,1"
    assert len(lines) == 5


def test_who_comes_first_is_served_first(machine):
    holder = machine.hold(1, "0")
    jobs = []
    for number in range(8):
        jobs.append(machine.start(1, f"echo {number} >> events", "0"))
        wait_for(lambda: machine.is_at_the_gate(jobs[-1]))
    holder.kill()
    assert [job.wait(timeout=20) for job in jobs] == [0] * 8
    assert (machine.folder / "events").read_text().split() == list("01234567")


def test_who_waits_for_other_devices_is_in_nobody_s_way(machine):
    machine.hold(1, "0")
    waiting = machine.start(1, "true", "0")
    machine.await_in_line(waiting, "0")
    assert machine.run(2, "echo $CUDA_VISIBLE_DEVICES", "2,3") == "2,3"
    assert machine.run(1, "echo $CUDA_VISIBLE_DEVICES", "1") == "1"
    assert waiting.poll() is None


def test_kill_9_frees_the_lease_at_once(machine):
    holder = machine.hold(2)
    waiting = machine.start(2, "true")
    machine.await_in_line(waiting, "1")
    holder.send_signal(signal.SIGKILL)
    assert waiting.wait(timeout=20) == 0  # the holder would have slept for 60 s
    killed_in_line = machine.start(2, "true")
    killed_in_line.kill()
    assert machine.run(2, "echo $CUDA_VISIBLE_DEVICES") == "0,1"


def test_a_lease_lasts_as_long_as_the_job_s_last_process(machine):
    job = machine.start(1, "sleep 60 & echo $!; wait", "0")
    child = int(job.stdout.readline())
    job.kill()
    job.wait()
    waiting = machine.start(1, "true", "0")
    machine.await_in_line(waiting, "0")
    time.sleep(0.3)
    assert waiting.poll() is None
    os.kill(child, signal.SIGKILL)
    assert waiting.wait(timeout=20) == 0


def test_exit_code_signals_arguments_and_process_are_the_command_s_own(machine):
    job = machine.start(1, "echo $$; exit 7")
    assert job.communicate(timeout=20)[0] == f"{job.pid}\n"
    assert job.returncode == 7
    job = machine.hold(1)
    job.terminate()
    assert job.wait(timeout=20) == -signal.SIGTERM
    job = machine.start(1, "trap 'echo told; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGUSR1)
    assert job.communicate(timeout=20)[0] == "told\n"
    assert job.returncode == 3
    ignored = int(machine.run(1, "grep SigIgn /proc/self/status").split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as in a shell, although Python ignores these signals
        assert not ignored >> (number - 1) & 1
    result = subprocess.run(
        [*LEASE, "--gpus", "0", "--", "echo", "--gpus", "--", "a b"], capture_output=True, text=True
    )
    assert result.stdout == "--gpus -- a b\n"


def test_nothing_is_leased_without_gpus_or_inside_a_slurm_job(machine):
    script = "echo ${CUDA_VISIBLE_DEVICES-unset} ${CUDA_DEVICE_ORDER-unset}"
    assert machine.run(2, script, None) == "unset unset"
    assert machine.run(2, script, "") == "unset"
    assert machine.run(0, script, "0,1") == "0,1 unset"
    assert machine.run(4, script, "0,1", SLURM_JOB_ID="7") == "0,1 unset"
    machine.lists("NVIDIA-SMI has failed", code=9)
    job = machine.start(1, script, None)
    out, error = job.communicate(timeout=20)
    assert (job.returncode, out) == (0, "unset unset\n")
    assert "NVIDIA-SMI has failed; no GPU is leased" in error
    del machine.environment["PATH"]
    assert machine.run(1, script, None, PATH="/bin:/usr/bin") in ("unset unset",) or os.path.exists(
        "/usr/bin/nvidia-smi"
    )
    assert not machine.leases.exists()


def test_a_run_s_own_devices_are_kept_and_are_the_machine_s(machine):
    """Indices, UUIDs and the list of nvidia-smi name the same hardware, so two runs cannot hold one device."""
    machine.lists(LISTED)
    script = "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"
    assert machine.hold(1, "1").devices == "1"
    assert machine.hold(1, "GPU-cccc").devices == "GPU-cccc"
    assert machine.run(1, script, "2,1,0") == "0 PCI_BUS_ID"
    assert machine.run(1, script, None) == "0 PCI_BUS_ID"
    assert machine.run(1, script, "GPU-bbbb-1,GPU-aaaa-0") == "GPU-aaaa-0 PCI_BUS_ID"
    waiting = machine.start(1, "true", "GPU-bbbb-1")
    machine.await_in_line(waiting, "1")
    time.sleep(0.3)
    assert waiting.poll() is None


@pytest.mark.parametrize(
    ("listed", "given", "devices"),
    [
        (LISTED, None, [("0", "0"), ("1", "1"), ("2", "2")]),
        (LISTED, "2,0", [("2", "2"), ("0", "0")]),
        (LISTED, " GPU-b , 1, 2", [("GPU-b", "1"), ("2", "2")]),
        (LISTED, "1,-1,2", [("1", "1")]),
        (LISTED, "NoDevFiles", []),
        ("", "GPU-zzzz", [("GPU-zzzz", "GPU-zzzz")]),
        (SPLIT, None, [("MIG-dddd", "MIG-dddd"), ("MIG-eeee", "MIG-eeee"), ("1", "1")]),
        (SPLIT, "MIG-eeee", [("MIG-eeee", "MIG-eeee")]),
    ],
)
def test_devices_are_what_cuda_would_see(machine, monkeypatch, listed, given, devices):
    machine.lists(listed)
    monkeypatch.setenv("PATH", machine.environment["PATH"])
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert visible_devices(environment) == [Device(*device) for device in devices]


def test_a_lease_within_a_lease_shares_out_what_there_is(machine):
    """If a whole run has a lease, its jobs wait for each other but not for the run itself."""
    inner = shlex.join([*LEASE, "--gpus", "1", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 0.3"])
    assert machine.run(2, f"{inner} & {inner} & wait", "3,4,5").split() in (["3", "4"], ["4", "3"])


def test_a_waiting_job_says_for_whom(machine):
    holder = machine.hold(1)
    code = (
        "import runpy, sys; from gateau import gpu_leases; gpu_leases.REPORT_SECONDS = 0.2; sys.argv[0] = sys.argv[1]; "
    )
    code += "del sys.argv[1]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, LEASE[1], "--gpus", "2", "--", "true"]
    environment = machine.environment | {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": str(ROOT / "scripts")}
    waiting = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True)
    machine.jobs.append(waiting)
    line = waiting.stderr.readline()
    assert re.search(rf"waiting for 2 of 2 GPUs for \d+ s: 0 held by process {holder.pid} since .*: sh -c ", line), line
    assert "1 held by this job" in line
    holder.kill()
    assert "leased GPU 0,1 after" in waiting.communicate(timeout=20)[1]


# --- errors ---


def test_more_gpus_than_there_are_is_an_error(machine):
    job = machine.start(3, "true")
    assert "3 GPUs were requested, but only 2 can be used (0,1): request fewer" in job.communicate(timeout=20)[1]
    assert job.returncode == 1


def test_a_wrong_command_is_said_before_a_wait(machine):
    machine.hold(2)
    command = [*LEASE, "--gpus", "1", "--", "no-such-program"]
    environment = machine.environment | {"CUDA_VISIBLE_DEVICES": "0,1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 127
    assert "no such command: 'no-such-program'" in result.stderr
    result = subprocess.run([*LEASE, "--gpus", "1"], capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 2
    assert "no command after --" in result.stderr


def test_a_folder_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    lines = [
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        f"40 22 0:44 / {tmp_path}/a\\040b rw shared:1 - nfs4 server:/home rw",
        f"41 22 0:45 / {tmp_path}/a\\040b/local rw - tmpfs tmpfs rw",
    ]
    mounts.write_text("\n".join(lines) + "\n")
    home, local = tmp_path / "a b", tmp_path / "a b/local"
    local.mkdir(parents=True)
    assert [file_system(path, mounts) for path in (home, local, tmp_path)] == ["nfs4", "tmpfs", "ext4"]
    assert file_system(home, tmp_path / "none") == ""
    monkeypatch.setattr(gpu_leases, "file_system", lambda path: file_system(path, mounts))
    assert lease_folder({"GATEAU_LEASE_DIR": str(local)}) == local
    with pytest.raises(SettingsError, match=r"nfs4, a network file system.*set GATEAU_LEASE_DIR to"):
        lease_folder({"GATEAU_LEASE_DIR": str(home)})


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match=r"cannot create.*set GATEAU_LEASE_DIR to"):
        lease_folder({"GATEAU_LEASE_DIR": str(file / "leases")})
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    monkeypatch.setattr(gpu_leases.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = lease_folder({})
    assert folder == tmp_path / f"gateau-leases-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(SettingsError, match="other users have access"):
        lease_folder({})


def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch):
    def refuse(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(SettingsError, match=r"cannot lock .*0\.gate \(No locks available\): set GATEAU_LEASE_DIR"):
        gpu_leases.acquire([Device("0", "0")], 1, tmp_path)


def test_a_lock_file_that_was_cleaned_away_is_made_anew(tmp_path):
    """A lock on a deleted file would not exclude any other job."""
    file = tmp_path / "0.lock"
    first = gpu_leases._lock(file, "first", wait=False)
    assert gpu_leases._lock(file, "second", wait=False) is None
    other = tmp_path / "other"
    other.touch()
    flock = fcntl.flock

    def cleaner(handle, operation):
        if file.stat().st_ino != other_inode:
            os.replace(other, file)
        flock(handle, operation)

    other_inode = other.stat().st_ino
    os.close(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", cleaner)
        third = gpu_leases._lock(file, "third", wait=False)
    assert os.fstat(third).st_ino == file.stat().st_ino == other_inode
    assert gpu_leases._lock(file, "fourth", wait=False) is None
    os.close(third)


# --- the local profile ---


@pytest.mark.parametrize(
    ("environment", "listed", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, LISTED, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, LISTED, 0),
        ({}, LISTED, 3),
        ({}, "", 0),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, "", 1),
    ],
)
def test_the_local_profile_starts_as_many_gpu_jobs_as_there_are_gpus(machine, monkeypatch, environment, listed, gpus):
    machine.lists(listed)
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PATH": machine.environment["PATH"], **environment}.items():
        monkeypatch.setenv(name, value)
    with open(ROOT / "profiles/local/profile.yaml") as profile:
        assert ProfileConfigFileParser().parse(profile)["resources"] == [f"gpu={gpus}"]
    if "SLURM_JOB_ID" not in environment:
        assert len(visible_devices(environment)) == gpus
