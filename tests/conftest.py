# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

from .validated import watch_json

# No deadlines: the machines that run this are shared and slow at times. The
# examples are the same in each run; new ones come with a new seed on request.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")

watch_json()
