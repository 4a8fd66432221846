# SPDX-License-Identifier: LGPL-2.1-or-later
"""HTML pages."""

from __future__ import annotations

from .fleet import fleet
from .page import check

__all__ = ["check", "fleet"]
