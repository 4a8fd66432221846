# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-slabtype``, and ``python -m drgn_slabtype``, which is the same."""

import sys

# Built in. What stands around it imports enum: a while in which Ctrl-C is Python's traceback.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    default_int_handler,
    getsignal,
    signal,
)


def main() -> int:
    """
    Run the command line in a process of its own.

    :return: Exit status.
    """
    _end_quietly()
    _start_no_more_than_needed()
    from .cli import main as run

    return _ended(run())


def kernel_ci() -> int:
    """
    Run ``kernel-ci`` in a process of its own.

    :return: Exit status.
    """
    _end_quietly()
    _start_no_more_than_needed()
    from .kernelci import main as run

    return _ended(run())


def _end_quietly() -> None:
    # Ctrl-C ends the process without a word until the command line can answer it:
    # what is imported for that takes a while.
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)


def _ended(status: int) -> int:
    # What Ctrl-C ends while Python takes itself down has an exit status already.
    if getsignal(SIGINT) is SIG_DFL:
        signal(SIGINT, SIG_IGN)
    return status


# Those that add commands to drgn's prompt and do nothing else here: ours, and drgn's own.
_OF_THE_PROMPT = ("slabtype", "builtin_commands", "crash_commands")


def _start_no_more_than_needed() -> None:
    import os

    # Nothing here multiplies matrices, and numpy starts a thread for each CPU to do it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # drgn imports its plugins where a core is opened; those that find debug info are wanted.
    disabled = os.environ.get("DRGN_DISABLE_PLUGINS")
    names = _OF_THE_PROMPT if not disabled else (disabled, *_OF_THE_PROMPT)
    os.environ["DRGN_DISABLE_PLUGINS"] = ",".join(names)


if __name__ == "__main__":
    sys.exit(main())
