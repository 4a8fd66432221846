# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answers as text and JSON."""

from __future__ import annotations

import json
from typing import Any, Dict

from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype import report
from drgn_slabtype.answers.address import AddressInfo
from drgn_slabtype.answers.caches import CachesAnswer, CacheUsage, CpuUsage, NodeUsage, SlabInfo
from drgn_slabtype.answers.slots import Slot
from drgn_slabtype.answers.states import SlabObject, object_states
from drgn_slabtype.answers.tracks import Track, spell_track

from ..ledgers import machines
from ..machines import ChainMachine

CACHE = CacheUsage(
    "dentry",
    0xFFFF888003A1C480,
    aliases=("other",),
    merged=1,
    object_size=192,
    size=256,
    objects_per_slab=16,
    slabs=2,
    lists={"partial": 1, "cpu": 1},
    memory=8192,
    leftover=0,
    padding=2048,
    objects=32,
    counted=30,
    in_use=28,
    free={"freelist": 2, "cpu freelist": 2},
    slabinfo=SlabInfo(30, 32, 256, 16, 1, 2, 2),
    nodes=[NodeUsage(0, 2, {"partial": 1}, 32, 30, {"freelist": 2, "cpu freelist": 2}, 28, 0, 0)],
    cpus=[CpuUsage(3, {"cpu": 1}, {"cpu freelist": 2})],
)
TOTAL = CacheUsage("total", 0, slabs=2, objects=32, in_use=28, memory=8192, padding=2048)


def text(command: str, records: Any) -> str:
    return "".join(report.present(command, records, "table"))


def document(command: str, records: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads("".join(report.present(command, records, "json")))
    assert found["schema"] == 1
    return found


def test_caches_show_where_the_free_objects_are() -> None:
    answer = CachesAnswer([CACHE], TOTAL, per_node=True, per_cpu=True, aliases=True)
    lines = text("caches", answer).splitlines()
    assert lines[0].split()[:4] == ["CACHE", "OBJSIZE", "SIZE", "ALLOCATED"]
    assert "2 freelist, 2 cpu freelist" in lines[1]
    assert lines[1].endswith("other")
    assert lines[2].startswith("total")
    assert lines[-1].startswith("1 cache; 8 KiB in 2 slabs; 0 KiB left over in slabs, 2 KiB")


def test_caches_mark_numbers_that_contradict_each_other() -> None:
    damaged = CacheUsage("dentry", 1, aliases=None, merged=2, consistent=False)
    lines = text("caches", CachesAnswer([damaged], TOTAL, aliases=True)).splitlines()
    assert lines[1].startswith("dentry *")
    assert lines[1].endswith("unknown (2 merged)")
    assert lines[-1].endswith("* 1 cache with something wrong: see check")


def test_caches_in_json_have_what_text_has() -> None:
    found = document("caches", CachesAnswer([CACHE], TOTAL))
    (cache,) = found["caches"]
    assert cache["address"] == "0xffff888003a1c480"
    assert cache["free"] == {"freelist": 2, "cpu freelist": 2}
    assert cache["slabinfo"]["active_objs"] == 30
    assert cache["waste"] == 2048
    assert cache["occupancy"] == 28 / 32
    assert "address" not in found["total"]
    assert found["total"]["objects"] == 32


@given(st.data())
def test_objects_have_a_line_each(data: st.DataObject) -> None:
    objects = object_states(data.draw(machines(ChainMachine)).ledger())
    lines = text("objects", objects).splitlines()
    found = document("objects", objects)
    assert len(lines) == len(objects) + 2
    assert found["count"] == len(found["objects"]) == len(objects)
    for line, row, record in zip(lines[2:], found["objects"], objects):
        assert line.startswith(f"0x{record.address:016x}  0x{record.slab:016x}  {record.index:5}")
        assert row["address"] == f"0x{record.address:x}"
        assert (row["state"], row["place"]) == (record.state, record.place)
        assert record.state in line


def test_object_tells_what_is_known() -> None:
    neighbour = SlabObject(0xFFFF888003A1C580, 0xFFFFEA00000E8700, 5, "free", "freelist", 3)
    info = AddressInfo(
        0xFFFF888003A1C488,
        "slab object",
        "8 bytes into object 4 of dentry slab 0xffffea00000e8700",
        cache="dentry",
        slab_cache=0xFFFF888003000000,
        slab=0xFFFFEA00000E8700,
        object=0xFFFF888003A1C480,
        index=4,
        offset=8,
        state="in use",
        contradictions=("inuse is wrong",),
        next=neighbour,
        tracks=(Track("allocated", "d_alloc+0x1b", 1, 42, 7, ("d_alloc+0x1b", "vfs_open+0x2")),),
    )
    shown = text("object", info)
    assert "0xffff888003a1c580, free (freelist, position 3)" in shown
    assert "by d_alloc+0x1b, CPU 1, PID 42, at 7" in shown
    assert "contradiction  inuse is wrong" in shown
    found = document("object", info)
    assert found["next"]["address"] == "0xffff888003a1c580"
    assert found["previous"] is None
    assert found["tracks"][0]["stack"] == ["d_alloc+0x1b", "vfs_open+0x2"]


def test_age_is_in_jiffies_where_a_second_is_not_known() -> None:
    def shown(track: Track) -> str:
        return text("object", AddressInfo(1, "slab object", "object 1 of x", tracks=(track,)))

    track = Track("allocated", "f+0x1", 1, 42, 7, ())
    assert "at 7, age 12 jiffies" in shown(track._replace(ago=12))
    assert "age 1 jiffy\n" in shown(track._replace(ago=1))
    assert "age 0.048 s" in shown(track._replace(age=0.048))
    assert "age" not in shown(track)
    assert (
        spell_track(track._replace(ago=12))
        == "allocated by f+0x1, CPU 1, PID 42, at 7, 12 jiffies ago"
    )


def test_slot_names_its_parts() -> None:
    slot = Slot(8, ((192, 200, "right red zone"), (200, 208, "free pointer")), 208)
    assert slot.part(-1) == "red zone or padding before the object"
    assert slot.part(0) is slot.part(191) is None
    assert slot.part(192) == "right red zone"
    assert slot.part(207) == "free pointer"
