# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The vmcore lab: real kernels, booted, made busy, paused, dumped and asked.

``scripts/vmlab`` is the command. The tables to extend are
:mod:`lab.kernels` and :mod:`lab.guests`.
"""
