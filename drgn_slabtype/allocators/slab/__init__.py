# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wing of SLAB (to Linux 6.7)."""
