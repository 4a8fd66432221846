# SPDX-License-Identifier: LGPL-2.1-or-later
"""What recipes use of the library: it checks and answers, and they judge what it says."""

from __future__ import annotations

from drgn_slabtype.answers.describe import describe
from drgn_slabtype.answers.lookup import Located, Lookup
from drgn_slabtype.check import check
from drgn_slabtype.errors import TargetError
from drgn_slabtype.findings import Finding, Report
from drgn_slabtype.machine import machine, witness
from drgn_slabtype.target import TargetOptions, open_target

__all__ = [
    "Finding",
    "Located",
    "Lookup",
    "Report",
    "TargetError",
    "TargetOptions",
    "check",
    "describe",
    "machine",
    "open_target",
    "witness",
]
