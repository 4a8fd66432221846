# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF
---

Types, variables and symbols of a kernel from its own memory, for kernels
without debug info.
"""

from __future__ import annotations

from .blob import BtfError
from .load import load_btf

__all__ = ("BtfError", "btf_evidence", "load_btf")
