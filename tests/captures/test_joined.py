# SPDX-License-Identifier: LGPL-2.1-or-later
"""A list that leads on into that of another cache, where every link agrees with its neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, order_of, overlay
from ..recipes.suites import suite_of

_HERE = Path(__file__).parent


def _lists(machine: Any, kind: str) -> Iterator[Tuple[int, List[Any]]]:
    for cache in machine.caches:
        slabs = machine.standing(cache, kind)
        if cache.name not in machine.own and len(slabs) > 2:
            yield cache.node().head(kind), slabs


@pytest.mark.parametrize(
    ("capture", "kind"),
    [
        ("slab-5.10-plain", "full"),
        ("slab-6.1-rfc3-plain", "partial"),
        ("debian-6.1-plain", "partial"),
        ("debian-7.1-plain", "partial"),
    ],
)
def test_the_link_that_leads_into_the_other_list_is_the_root(capture: str, kind: str) -> None:
    prog = open_capture(str(_HERE / capture / "capture.xz"))
    (head, one), (_, other), *_ = _lists(suite_of(prog).open(prog), kind)
    last, first = one[-1], other[0]
    order = order_of(prog)
    ahead, behind = last.link, first.link + 8
    overlay(
        prog,
        [
            Write(ahead, first.link.to_bytes(8, order)),
            Write(behind, last.link.to_bytes(8, order)),
        ],
    )
    found = check(prog).findings
    (root,) = (finding for finding in found if finding.because is None)
    assert root.code == "list-links"
    assert root.word in (ahead, behind)
    assert [finding.code for finding in found] == ["list-links"] * 2
    assert head in {finding.expected for finding in found}
