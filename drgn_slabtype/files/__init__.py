# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers of files that hold memory: what is there and what is cut, read without drgn."""
