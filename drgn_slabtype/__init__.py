# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read and check the Linux slab allocators through drgn."""
