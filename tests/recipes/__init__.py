# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to real kernels
----------------------

A recipe picks a victim in a dump or capture (:mod:`.victims`), says what becomes
of it (:mod:`.changes`), and what a check of the damaged kernel must find
(:mod:`.language`): one root, and nothing that does not follow from it. The file
itself is never written to. One recipe serves every kernel that has the structure
it damages; what both allocators have is damaged by the same ones (:mod:`.both`).

``python -m tests.recipes CORE VMLINUX`` applies all of them, one by one.
"""
