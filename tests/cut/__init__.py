# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps that lack something, of which nothing may be said but that.

``python -m tests.cut DUMP VMLINUX`` writes a dump once more without its end,
without some of its memory or with zeroes in its place, as ELF and as kdump, and
checks what can be opened of it. Nothing is a finding, and a number that differs
from the whole dump's belongs to something that is said to be missing.
"""
