"""A worker process of `processes`: orders come in on standard input, a line each; answers go out on standard output."""

import os
import signal
import sys

from pinnersage_assets.engines.tasks import perform


def main() -> None:
    """Serve until the input ends, as it does when the caller dies."""
    # An interrupt at the terminal reaches all processes; what to do about it is the caller's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    # Kernels that print, and libraries that do, must not be taken for answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for order in orders:
        answers.write(perform(order) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.exit(main())
