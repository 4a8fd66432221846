# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from .validated import watch_json

# No deadlines: the machines that run this are shared and slow at times. The
# examples are the same in each run; new ones come with a new seed on request.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")

watch_json()


@pytest.fixture(autouse=True)
def _as_urgent_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # Checks of the running kernel, in this process, would leave all tests after them
    # to the time that others have no use for.
    monkeypatch.setattr(os, "setpriority", lambda which, who, priority: None)
