# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text over the links of a slab, the first letter of which makes a tail of its head."""

from __future__ import annotations

from pathlib import Path

from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.what import what
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of

_CAPTURE = str(Path(__file__).parent / "debian-6.1-plain" / "capture.xz")
_TEXT = b"usb 1-1: new hig"


def test_the_links_are_the_root_and_every_question_is_answered() -> None:
    prog = open_capture(_CAPTURE)
    machine = suite_of(prog).open(prog)
    slab = machine.slab("partial slab", lambda slab: slab.quiet)
    overlay(prog, [Write(slab.link, _TEXT)])
    found = check(prog).findings
    (root,) = (finding for finding in found if finding.because is None)
    assert (root.code, root.word) == ("list-links", slab.link)
    (stretch,) = root.stretches
    assert _TEXT.decode() in stretch.what
    assert slab.cache.name in stretch.before
    info = slab_object(prog, slab.slot(0))
    assert (info.slab, info.object) == (slab.page, None)
    assert "whose links say that it is a tail" in info.meaning
    assert any(one.kind == "address" for one in what(prog, slab.slot(0)).meanings)
