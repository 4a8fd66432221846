# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that is looked at: its memory, its structures, its locks, its names."""
