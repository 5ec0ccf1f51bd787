"""How the ranks of a training end."""

import subprocess
import sys

from gateau.training.launcher import PREEMPTED

from helpers import ROOT

RANK = f"""
import atexit, logging, os, sys
from gateau.training.launcher import end_rank
logging.basicConfig(stream=sys.stderr)
print("last line")  # in the buffer, for standard output is a pipe
logging.warning("last warning")
atexit.register(os.abort)  # what a thread of a pending collective does to an interpreter that shuts down
end_rank({PREEMPTED})
"""


def test_a_rank_ends_with_its_code_whatever_its_threads_still_do():
    result = subprocess.run(
        [sys.executable, "-c", RANK], cwd=ROOT / "scripts", capture_output=True, text=True, check=False
    )
    assert result.returncode == PREEMPTED
    assert result.stdout == "last line\n"
    assert "last warning" in result.stderr
