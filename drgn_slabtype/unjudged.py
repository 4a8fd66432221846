# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A check before it has judged anything
-------------------------------------

Its report is made where a check is stopped while the target is opened: nothing of
what reads and judges is imported for it, which takes as long as opening does.
"""

from __future__ import annotations

import argparse

from .findings import Decided, LayoutSummary, Report, Share, Target


def nothing(args: argparse.Namespace, reason: str) -> Report:
    """
    Return the report of a run that was stopped while the target was opened.

    :param args: The options of ``check``.
    :param reason: Name of the signal, or ``time``.
    """
    options = vars(args)
    path = options.get("core") or options.get("qemu")
    kind = "core" if options.get("core") else "qemu" if options.get("qemu") else "live"
    report = Report(Target(kind, path), LayoutSummary())
    report.decided = Decided(Share(0, None), Share(0, None), Share(0, None))
    report.stop(reason)
    return report


def is_watch(args: argparse.Namespace) -> bool:
    """Return whether rounds of checks are asked for."""
    return args.watch is not None or args.rounds is not None or args.until_finding
