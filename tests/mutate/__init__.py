# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every word of the allocators, overwritten in turn.

``python -m tests.mutate CORE VMLINUX`` takes each member of each structure that
the allocators and the rules about pages read, changes it in five ways, one at a
time, and tells which changes a check finds. What it passes in silence needs a
reason in :mod:`.reasons`: that nothing else in memory follows from the word.
"""
