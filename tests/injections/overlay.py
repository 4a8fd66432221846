# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a program's memory, replaced; see :mod:`tests.recipes.overlay`."""

from __future__ import annotations

from ..recipes.overlay import Write, overlay

__all__ = ["Write", "overlay"]
