# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to real kernels
----------------------

A recipe finds a victim in a dump or capture, says which bytes to overwrite, and
what a check of the damaged kernel must find: one root, and nothing that does
not follow from it. The file itself is never written to. One recipe serves every
kernel that has the structure it damages.

``python -m tests.recipes CORE VMLINUX`` applies all of them, one by one.
"""
