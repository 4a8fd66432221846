# SPDX-License-Identifier: LGPL-2.1-or-later
"""The HTML page of a check."""

from __future__ import annotations

from .page import check

__all__ = ["check"]
