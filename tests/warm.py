"""A Python that has imported torch and transformers already, for the many jobs that tests run to their end.

The imports take six seconds of CPU, far longer than most jobs of a test. A server imports them once and forks for
each script. ``python()`` names an executable that takes the place of ``python`` for a script of this project: it hands
its arguments, environment, folder and open files to the server and exits as the script does. A script whose caller is
killed is killed too. Nothing of this project is imported by the server, so that edited checkouts run their own code.

Tests of signals, limits and kills start scripts in the usual way.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import functools
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

_PRELOADED = (
    "numpy", "pandas", "pyarrow.parquet", "pyarrow.compute", "torch", "tqdm", "safetensors.torch", "yaml",
    "matplotlib.pyplot", "scipy.stats", "jieba", "openai", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.generation.utils",
)  # fmt: skip
_CLIENT = """\
#!{python} -ISs
import array, json, os, socket, sys
arguments = sys.argv[1:]
if not arguments or not arguments[0].endswith(".py") or "gpu_lease" in arguments[0]:
    os.execv({python!r}, [{python!r}, *arguments])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
files = array.array("i", [0, 1, 2])
connection.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
connection.sendall(request)
answer = connection.recv(4)
sys.exit(int.from_bytes(answer, "big", signed=True) if answer else 1)
"""


@functools.cache
def python() -> str:
    """Return the path of an executable ``python``; start its server when it is called first."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    atexit.register(folder.cleanup)
    address, client = f"{folder.name}/socket", Path(folder.name) / "bin/python"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        command = [sys.executable, __file__, str(listening.fileno())]
        server = subprocess.Popen(command, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(server.kill)
    client.parent.mkdir()
    client.write_text(_CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    # bash reads this file before a job's command, and after Snakemake has set the path
    (Path(folder.name) / "path.sh").write_text(f'PATH="{client.parent}:$PATH"\n')
    return str(client)


def environment() -> dict[str, str]:
    """Return the environment in which the jobs of a Snakemake run find that ``python`` first."""
    return {**os.environ, "BASH_ENV": str(Path(python()).parents[1] / "path.sh")}


def _serve(listening: socket.socket) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the tests
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    # the one other thread is that of pyarrow's memory allocator, which allows forks
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the handlers
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _handle(connection)
        connection.close()


def _handle(connection: socket.socket) -> None:
    """Run one script in a fork, report its exit code, and end it if the client has gone."""
    header, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    length, request = int.from_bytes(header, "big"), b""
    while len(request) < length:
        request += connection.recv(length - len(request))
    job = os.fork()
    if job == 0:
        connection.close()
        _run(*json.loads(request), files)
    for file in (0, 1, 2, *files):
        os.close(file)
    ended = os.pidfd_open(job)
    ready, *_ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(job, signal.SIGKILL)
    _, status = os.waitpid(job, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall((code if code >= 0 else 128 - code).to_bytes(4, "big", signed=True))
    os._exit(0)


def _run(arguments: list[str], folder: str, variables: dict[str, str], files: array.array[int]) -> None:
    """Be the process that ``python SCRIPT ARGUMENTS`` would be."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, mode, buffering=size), line_buffering=number == 2, encoding="utf-8")  # noqa: SIM115
        for number, mode, size in ((0, "rb", -1), (1, "wb", -1), (2, "wb", -1))
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if "torch" in sys.modules and "OMP_NUM_THREADS" in variables:
        sys.modules["torch"].set_num_threads(int(variables["OMP_NUM_THREADS"]))
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
    sys.path[1:1] = [place for place in variables.get("PYTHONPATH", "").split(":") if place]
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except Exception:  # noqa: BLE001 (as the interpreter would)
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
