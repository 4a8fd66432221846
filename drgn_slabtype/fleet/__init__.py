# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many dumps: found, judged side by side, and put into groups by what is wrong with them."""

from __future__ import annotations
