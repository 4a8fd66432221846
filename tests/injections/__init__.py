# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to real kernels
----------------------

A recipe finds a victim in a dump, says which bytes to overwrite, and what a
check of the damaged dump must find: one root, and nothing that does not follow
from it. The dump itself is never written to.
"""
