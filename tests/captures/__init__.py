# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real kernels, replayed."""

from __future__ import annotations

from typing import Any, Tuple

ONE_OF_EACH_SHAPE = (
    "debian-5.10-plain",
    "debian-6.1-plain",
    "debian-6.18-plain",
    "debian-7-debug",
    "debian-7-numa",
    "slab-5.10-plain",
    "slab-6.1-alt2-plain",
    "slab-6.1-debug-plain",
    "slab-6.1-rfc3-plain",
    "slub-6.1-bare-plain",
    "slub-6.12-tiny-plain",
)
"""Captures on which damage is tried; in the others it would meet the same code."""


def two_caches(machine: Any) -> Tuple[Any, Any]:
    """Return two caches of the machine of the recipes that are used, and are none of its own."""
    fit = [
        cache
        for cache in machine.caches
        if len(machine.slabs_of(cache)) > 3
        and not cache.lived_in
        and machine.standing(cache, "partial")
    ]
    return fit[len(fit) // 3], fit[2 * len(fit) // 3]
