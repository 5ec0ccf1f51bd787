"""Run a command on GPUs that no other job of this user has.

Example: ``gpu_lease.py --gpus 2 -- python my_program.py --its-options``. The lease waits until the GPUs are free, sets
CUDA_VISIBLE_DEVICES and replaces its own process by the command, so signals and exit codes are those of the command.
The rules put a lease in front of every command that computes on a GPU. By hand, use it to run any other program beside
a running workflow. Inside a SLURM job, on a machine without GPUs, and with ``--gpus 0``, it only starts the command.

The devices are those in CUDA_VISIBLE_DEVICES if it is set, and otherwise all of the machine. The locks lie in a folder
in /tmp. Set GATEAU_LEASE_DIR to use another folder, for example where /tmp is not the same for all jobs.
"""

import logging
import signal
import sys

from gateau.command import argument_parser
from gateau.errors import UserError
from gateau.gpu_leases import run_leased


def main() -> None:
    """Lease the GPUs and become the command."""
    parser = argument_parser(__doc__, usage="%(prog)s [-h] --gpus N -- COMMAND [ARGUMENTS ...]")
    parser.add_argument(
        "--gpus", type=int, required=True, metavar="N", help="number of GPUs; 0 starts the command without a lease"
    )
    # everything after the first -- belongs to the command, including a further --
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    if not command:
        parser.error("no command after --")
    # gateau.command.run would log where this process runs before the GPUs are known; the command logs it itself
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C ends a wait without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run_leased(args.gpus, command)
    except (UserError, OSError) as error:
        logging.error("%s", error)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 1)  # 127: command not found, as in shells


if __name__ == "__main__":
    main()
