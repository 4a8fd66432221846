# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A fleet's dumps
---------------

Captures of the tests, damaged in ways that a mistake would (:mod:`.kinds`), at
places that a seed picks: the same mistake in many machines. ``python -m
tests.fleet FOLDER -n 1000`` writes them.
"""
