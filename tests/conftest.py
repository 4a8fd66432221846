# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings that all tests share."""

from __future__ import annotations

import os
from typing import Any, List, Mapping, Tuple

import pytest
from hypothesis import settings

from .inturn import left_out
from .validated import watch_json

# No deadlines: the machines that run this are shared and slow at times. The
# examples are the same in each run; new ones come with a new seed on request.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")

watch_json()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what makes a run complete."""
    parser.addoption(
        "--every-kernel",
        action="store_true",
        help="repeat each test for each of its kernels, not for some of them in turn",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare what exempts a test."""
    config.addinivalue_line("markers", "each_kernel: repeated for each kernel in any run")


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    """Leave kernels out, unless what is asked for is all of them, or single tests by their ids."""
    if config.getoption("--every-kernel") or any("::" in word for word in config.args):
        return
    some = [item for item in items if item.get_closest_marker("each_kernel") is None]
    left = {id(some[position]) for position in left_out(some, _told)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left])
    items[:] = [item for item in items if id(item) not in left]


def _told(item: pytest.Item) -> Tuple[str, Mapping[str, Any]]:
    test = item.nodeid.partition("[")[0]
    case = getattr(item, "callspec", None)
    return test, {} if case is None else case.params


@pytest.fixture(autouse=True)
def _as_urgent_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # Checks of the running kernel, in this process, would leave all tests after them
    # to the time that others have no use for.
    monkeypatch.setattr(os, "setpriority", lambda which, who, priority: None)
