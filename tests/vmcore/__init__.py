# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests on dumps of real kernels."""
