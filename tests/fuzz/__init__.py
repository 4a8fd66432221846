# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Captures of real kernels, damaged at random, that must be judged all the same.

``python -m tests.fuzz --cases 1000`` damages words of metadata, headers, notes and
compressed bytes of all captures; each case has a number from which it can be made
again. ``--minimise`` ends with the smallest damage that still goes wrong.
"""
