# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests; in all of them what the library does not expect is an error, and costs no cache only."""

from __future__ import annotations

from drgn_slabtype import reading

reading.CAUGHT = ()
