# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-slabtype``, and ``python -m drgn_slabtype``, which is the same."""

import signal
import sys


def main() -> int:
    """
    Run the command line in a process of its own.

    :return: Exit status.
    """
    _end_quietly()
    from .cli import main as run

    return run()


def kernel_ci() -> int:
    """
    Run ``kernel-ci`` in a process of its own.

    :return: Exit status.
    """
    _end_quietly()
    from .kernelci import main as run

    return run()


def _end_quietly() -> None:
    # Ctrl-C ends the process without a word until the command line can answer it:
    # what is imported for that takes a while.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
