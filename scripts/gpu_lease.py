"""Give a command GPUs that no other job of this user has: ``gpu_lease.py --gpus 2 -- COMMAND ARGUMENTS…``

Waits until they are free, sets CUDA_VISIBLE_DEVICES and becomes the command, whose signals and exit code are therefore
its own. The rules put this in front of what computes on a GPU; by hand it fits any other program, beside a workflow
that runs. Inside a SLURM job, without GPUs and with ``--gpus 0`` it only starts the command.

Devices are those of CUDA_VISIBLE_DEVICES if it is set, else all of the machine. The locks lie in a folder in /tmp;
GATEAU_LEASE_DIR names another, for instance where /tmp is not the same for all.
"""

import argparse
import logging
import signal
import sys

from gateau.errors import UserError
from gateau.gpu_leases import run_leased


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] --gpus N -- COMMAND [ARGUMENTS ...]",
    )
    parser.add_argument("--gpus", type=int, required=True, help="how many; 0 starts the command and does nothing else")
    # what follows -- is the command's alone, another -- in it too
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    if not command:
        parser.error("there is no command after --")
    # not gateau.command.run: what the log says of this process's place is for the command to say, once it has one
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C while waiting needs no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run_leased(args.gpus, command)
    except (UserError, OSError) as error:
        logging.error("%s", error)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 1)  # as shells have it


if __name__ == "__main__":
    main()
