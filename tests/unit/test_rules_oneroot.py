# SPDX-License-Identifier: LGPL-2.1-or-later
"""One write over many words is one root."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional

from drgn_slabtype.findings import Damaged, Finding
from drgn_slabtype.rules.oneroot import one_root
from tests.memmap import LINEAR, MAP, PAGE, page_of


def _roots(findings: List[Finding], *lost: range) -> Dict[int, Optional[int]]:
    return {one.id: one.because for one in one_root(findings, page_of, PAGE, lost)}


def _entry(id: int, word: int, found: int = 0) -> Finding:
    return Finding("claim-foreign", "entry", id=id, word=word, found=found, place="cpu array")


def test_words_side_by_side_are_one_damage() -> None:
    words = [LINEAR + 8 * at for at in (0, 1, 3, 5)]
    assert _roots([_entry(id, word) for id, word in enumerate(words, 1)]) == {
        1: None, 2: 1, 3: 1, 4: 1,
    }  # fmt: skip


def test_words_apart_are_not() -> None:
    assert _roots([_entry(1, LINEAR), _entry(2, LINEAR + 24)]) == {1: None, 2: None}


def test_words_of_one_struct_page_are_one_damage() -> None:
    order = Finding("slab-order-wrong", "order", id=1, slab=MAP, word=MAP + PAGE + 0x11)
    zone = Finding("page-zone-wrong", "zone", id=2, page=MAP + PAGE, word=MAP + PAGE)
    assert _roots([order, zone]) == {1: None, 2: 1}
    zone = replace(zone, page=MAP + 3 * PAGE, word=MAP + 3 * PAGE)
    assert _roots([replace(order, word=MAP + 3 * PAGE - 0x11), zone]) == {1: None, 2: None}


def test_slab_that_is_missing_is_the_one_whose_page_is_overwritten() -> None:
    short = Finding("node-slabs", "count", id=1, cache="a", node=0, expected=1, found=2)
    zone = Finding("page-zone-wrong", "zone", id=2, cache="a", slab=MAP, word=MAP)
    assert _roots([short, zone]) == {1: 2, 2: None}
    assert _roots([short, replace(zone, cache="b")]) == {1: None, 2: None}
    assert _roots([replace(short, found=3), zone]) == {1: None, 2: None}
    page = Finding("page-tail-head", "head", id=2, page=MAP)
    assert _roots([short, page]) == {1: 2, 2: None}
    other = replace(short, id=3, cache="b")
    assert _roots([short, page, other]) == {1: None, 2: None, 3: None}
    assert _roots([short, replace(page, pages=2), other]) == {1: 2, 2: None, 3: 2}
    vector = Finding("slab-vector-wrong", "vector", id=2, cache="b", slab=MAP, found=LINEAR + 1)
    more = [
        replace(vector, id=at, cache="c", slab=MAP + 8 * PAGE * at, found=LINEAR + 64 * at)
        for at in (3, 4)
    ]
    assert _roots([short, vector, *more]) == {1: 2, 2: None, 3: 2, 4: 2}


def test_struct_pages_side_by_side_are_one_damage() -> None:
    links = [Finding("list-links", "next", id=at, page=MAP + PAGE * at) for at in (1, 2, 4)]
    assert _roots(links) == {1: None, 2: 1, 4: None}
    zones = Finding("page-zone-wrong", "zones", id=3, page=MAP + PAGE, pages=3)
    assert _roots([*links, zones]) == {1: None, 2: 1, 3: 1, 4: 1}
    slabs = [replace(one, page=None, slab=one.page) for one in links]
    assert set(_roots(slabs).values()) == {None}


def test_vector_that_lay_in_a_page_that_is_no_slab_any_more() -> None:
    page = Finding("page-tail-head", "head", id=1, page=MAP + PAGE)
    vector = Finding("slab-vector-wrong", "vector", id=2, cache="a", slab=MAP, found=MAP + PAGE)
    assert _roots([page, vector]) == {1: None, 2: 1}
    assert _roots([page, replace(vector, found=MAP)]) == {1: None, 2: None}


def test_what_is_damaged_in_one_piece_has_the_root_that_bookkeeping_tells() -> None:
    zone = Finding("redzone", "zone", id=1, word=LINEAR)
    track = Finding("track", "track", id=2, word=LINEAR + 64)
    pointer = Finding("freelist-pointer", "pointer", id=3, word=LINEAR + 512)
    apart = Finding("redzone", "zone", id=4, word=LINEAR + 4096)
    found = one_root([zone, track, pointer, apart], page_of, PAGE, touching=[[1, 2, 3]])
    assert [one.because for one in found] == [3, 3, None, None]


def test_what_leads_into_overwritten_contents_follows_from_them() -> None:
    order = Finding("cache-wrong", "order", id=1, cache="a", word=LINEAR, found=LINEAR + 4096)
    zone = Finding("redzone", "zone", id=2, word=LINEAR + 4096)
    found = one_root([order, zone], page_of, PAGE, inside=[(2, 1)])
    assert [one.because for one in found] == [2, None]
    # One that has another root keeps it.
    link = Finding("list-links", "link", id=3, cache="a", word=LINEAR + 8)
    found = one_root([replace(order, because=3), zone, link], page_of, PAGE, inside=[(2, 1)])
    assert [one.because for one in found] == [3, None, None]


def test_slab_on_two_lists_is_one_damage() -> None:
    wrong = Finding("list-wrong", "of another cache", id=1, cache="a", slab=MAP)
    link = Finding("list-links", "next", id=2, cache="b", slab=MAP + PAGE, found=MAP + 8)
    assert _roots([wrong, link]) == {1: None, 2: 1}
    assert _roots([replace(wrong, slab=MAP + 9 * PAGE), link]) == {1: None, 2: None}


def test_list_that_ends_in_a_run_of_overwritten_struct_pages() -> None:
    link = Finding("list-links", "next", id=1, cache="a", slab=MAP, found=MAP + 6 * PAGE)
    zones = Finding("page-zone-wrong", "zones", id=2, page=MAP + 4 * PAGE, pages=3)
    assert _roots([link, zones]) == {1: None, 2: 1}
    assert _roots([link, replace(zones, pages=1)]) == {1: None, 2: None}


def test_entries_in_a_page_that_is_no_slab_any_more_are_one_damage() -> None:
    entries = [_entry(at, LINEAR + 4096 * at, LINEAR + (1 << 20) + 64 * at) for at in (1, 2)]
    assert _roots(entries) == {1: None, 2: 1}
    assert _roots([entries[0], replace(entries[1], slab=MAP)]) == {1: None, 2: None}


def test_entry_in_a_slab_that_says_it_is_shorter_follows() -> None:
    order = Finding("slab-order-wrong", "order", id=1, cache="a", slab=MAP, word=MAP + PAGE)
    assert _roots([order, _entry(2, LINEAR + (1 << 20), LINEAR + 3 * 4096)]) == {1: None, 2: 1}
    assert _roots([order, _entry(2, LINEAR + (1 << 20), LINEAR + 9 * 4096)]) == {1: None, 2: None}


def test_table_that_leads_to_an_unlisted_cache_follows() -> None:
    lost = Finding("cache-list", "not on slab_caches", id=1, cache="a", found=LINEAR)
    table = Finding("machine-wrong", "kmalloc_caches", id=2, found=LINEAR)
    size = Finding("cache-wrong", "object_size", id=1, cache="a", word=LINEAR + 0x1C)
    assert _roots([size, table]) == {1: None, 2: 1}
    assert _roots([replace(size, word=LINEAR - 8), table]) == {1: None, 2: None}
    assert _roots([lost, table]) == {1: None, 2: 1}
    assert _roots([lost, replace(table, found=LINEAR + 8)]) == {1: None, 2: None}


def test_what_follows_counts_as_a_word_of_its_root() -> None:
    first = Finding("list-broken", "partial", id=1, word=LINEAR)
    head = Finding("list-broken", "full", id=2, word=LINEAR + 32)
    count = Finding("node-list-length", "count", id=3, because=2, word=LINEAR + 16)
    assert _roots([first, head, count]) == {1: None, 2: 1, 3: 1}


def test_a_lock_explains_nothing_and_follows_from_what_was_written_beside_it() -> None:
    lock = Finding("lock-wrong", "lock", id=1, word=LINEAR)
    head = Finding("list-broken", "partial", id=2, word=LINEAR + 8)
    assert _roots([lock, head]) == {1: 2, 2: None}
    assert _roots([replace(lock, code="lock-kept"), head]) == {1: None, 2: None}
    assert _roots([lock, replace(head, word=LINEAR + 64)]) == {1: None, 2: None}


def test_structures_of_one_page_are_one_damage() -> None:
    heads = [Finding("list-broken", "partial", id=at, word=LINEAR + 256 * at) for at in (1, 2, 3)]
    assert set(_roots(heads).values()) == {None}
    lock = Finding("lock-wrong", "lock", id=4, word=LINEAR + 1024)
    assert _roots([*heads, lock]) == {1: None, 2: 1, 3: 1, 4: 1}
    assert _roots([*heads, replace(lock, word=LINEAR + 4096)])[2] is None


def test_slabs_are_damaged_together_where_their_struct_pages_are_overwritten() -> None:
    pages = [MAP + PAGE * 3 * at for at in range(1, 5)]
    marks = [
        Finding("slab-mark-lost", "mark", id=at, slab=page, word=page + 0x30)
        for at, page in enumerate(pages, 1)
    ]
    assert set(_roots(marks).values()) == {None, 1}
    counts = [replace(one, code="count-mismatch") for one in marks]
    assert set(_roots(counts).values()) == {None}


def test_what_most_cpus_have_of_a_cache_is_lost_by_one_pointer() -> None:
    arrays = [
        Finding("container-state", "limit", cache="filp", id=at, cpu=at, place="cpu array")
        for at in (1, 2, 3)
    ]
    assert _roots(arrays) == {1: None, 2: 1, 3: 1}
    sheaves = [replace(one, place=f"main sheaf of CPU {one.cpu}") for one in arrays]
    assert _roots(sheaves) == {1: None, 2: 1, 3: 1}
    assert set(_roots(arrays[:2]).values()) == {None}
    assert set(_roots([*arrays[:2], replace(arrays[2], cache="dentry")]).values()) == {None}


def test_entries_that_many_frees_have_made_stay_apart() -> None:
    assert set(_roots([_entry(at, LINEAR + 64 * at) for at in range(1, 6)]).values()) == {None}


def test_contents_and_what_moves_stay_apart() -> None:
    one = Finding("redzone", "zone", id=1, word=LINEAR)
    assert _roots([one, replace(one, id=2, word=LINEAR + 8)]) == {1: None, 2: None}
    moving = replace(_entry(2, LINEAR + 8), moving=True)
    assert _roots([_entry(1, LINEAR), moving]) == {1: None, 2: None}


def test_a_page_that_is_no_slab_any_more() -> None:
    # Two objects of the slab, and its tails, tell so too; an object elsewhere does not.
    page = MAP + 16 * PAGE
    links = Finding("list-links", "next", id=3, found=page + 8, word=MAP)
    inside = _entry(1, LINEAR, LINEAR + (16 << 12) + 256)
    second = _entry(2, LINEAR + 64, LINEAR + (17 << 12))
    tail = Finding("page-tail-head", "tail", id=4, page=page + PAGE)
    other = _entry(5, LINEAR + 128, LINEAR + (64 << 12))
    found = [inside, second, links, tail, other]
    assert _roots(found) == {1: 3, 2: 3, 3: None, 4: 3, 5: None}


def test_a_page_that_was_given_back_explains_the_list() -> None:
    page = MAP + 16 * PAGE
    links = Finding("list-broken", "next", id=1, found=page + 8)
    free = Finding("page-free-type", "free", id=2, slab=page)
    assert _roots([links, free]) == {1: 2, 2: None}


def test_neighbours_of_a_lost_cache() -> None:
    lost = range(LINEAR, LINEAR + 256)
    ring = Finding("cache-wrong", "ring", id=1, found=LINEAR + 120)
    other = Finding("cache-wrong", "size", id=2, found=64)
    root = Finding("cache-list", "list", id=3, found=LINEAR + 96)
    assert _roots([ring, other, root], lost) == {1: 3, 2: None, 3: None}
    assert _roots([ring, other, root]) == {1: None, 2: None, 3: None}


def test_vectors_of_a_damaged_cache_follow_from_it() -> None:
    wrong = Finding("cache-wrong", "num", id=1, cache="one")
    vectors = [
        Finding("slab-vector-wrong", "vector", id=id, cache=name)
        for id, name in ((2, "one"), (3, "other"))
    ]
    assert _roots([wrong, *vectors]) == {1: None, 2: 1, 3: None}


def test_vectors_in_a_damaged_slab_follow_from_it() -> None:
    # Of the third page of a slab, and of another slab.
    page = MAP + 16 * PAGE
    wrong = Finding("slab-objects-wrong", "objects", id=1, slab=page)
    inside, elsewhere = (
        Finding("slab-vector-wrong", "vector", id=id, found=LINEAR + (pfn << 12) + 0x801)
        for id, pfn in ((2, 18), (3, 32))
    )
    assert _roots([wrong, inside, elsewhere]) == {1: None, 2: 1, 3: None}


def test_what_belongs_to_one_alone_and_two_lead_to_is_one_damage() -> None:
    def vector(id: int, found: int) -> Finding:
        word = MAP + 4096 * id
        return Finding("slab-vector-wrong", "", id=id, word=word, found=found, slab=word)

    shared = LINEAR + 4096
    assert _roots([vector(1, shared), vector(2, shared)]) == {1: None, 2: 1}
    assert _roots([vector(1, shared), vector(2, shared + 64)]) == {1: None, 2: None}
    # The same garbage may have come to two places in two ways.
    assert _roots([vector(1, 0x6B), vector(2, 0x6B)]) == {1: None, 2: None}


def test_a_tail_that_is_another_head_contradicts_its_slab() -> None:
    def wrong(id: int, page: int) -> Finding:
        return Finding("slab-order-wrong", "", id=id, slab=MAP + PAGE * page, word=id << 8)

    assert _roots([wrong(1, 8), wrong(2, 9)]) == {1: None, 2: 1}
    assert _roots([wrong(1, 8), wrong(2, 32)]) == {1: None, 2: None}


def test_a_slab_that_a_cpu_has_lost_follows_from_where_its_freelist_leads() -> None:
    head = Finding(
        "freelist-pointer", "", id=1, cpu=1, slab=MAP, word=LINEAR, found=LINEAR + 0x5100
    )
    lost = Finding("list-missing", "", id=2, slab=MAP + 4 * PAGE)
    assert _roots([head, lost]) == {1: None, 2: 1}
    assert _roots([head, replace(lost, slab=MAP + 64 * PAGE)]) == {1: None, 2: None}


def test_red_zones_around_structures_that_are_run_over_are_one_damage() -> None:
    heads = [Finding("list-broken", "", id=at, word=LINEAR + 256 * at) for at in (1, 2, 3, 4)]
    zones = [
        Finding(
            "redzone",
            "",
            id=4 + at,
            word=LINEAR + 256 * at - 64,
            ranges=(Damaged(LINEAR + 256 * at - 64, 60, "cc", "2f"),),
        )
        for at in (1, 2, 6)
    ]
    assert _roots([*heads, *zones]) == {1: None, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 10: None}


def test_what_is_around_caches_that_the_list_has_lost_follows() -> None:
    lost = Finding("cache-list", "", id=1, word=LINEAR)
    zone = Finding("redzone", "", id=2, word=LINEAR + 8176)
    gone = range(LINEAR + 4096, LINEAR + 4352)
    assert _roots([lost, zone], gone) == {1: None, 2: 1}
    assert _roots([lost, replace(zone, word=LINEAR + 8192)], gone) == {1: None, 2: None}


def test_a_cache_that_is_wrong_is_not_destroyed() -> None:
    gone = Finding("cache-destroyed", "", id=1, cache="dentry")
    name = Finding("cache-wrong", "", id=2, cache="dentry", word=LINEAR)
    assert _roots([gone, name]) == {1: 2, 2: None}
    assert _roots([gone, replace(name, cache="inode")]) == {1: None, 2: None}


def test_words_of_one_node_are_one_damage() -> None:
    def word(id: int, at: int, cache: str) -> Finding:
        return Finding("list-broken", "", id=id, word=LINEAR + at, cache=cache, node=0)

    assert _roots([word(1, 0, "dentry"), word(2, 96, "dentry")]) == {1: None, 2: 1}
    assert _roots([word(1, 0, "dentry"), word(2, 96, "inode")]) == {1: None, 2: None}
    assert _roots([word(1, 0, "dentry"), word(2, 512, "dentry")]) == {1: None, 2: None}


def test_what_a_pointer_to_anothers_array_leads_to_follows_from_it() -> None:
    array = LINEAR + 4096
    pointer = Finding("container-state", "", id=1, word=LINEAR, found=array, node=0, cache="a")
    batch = Finding("container-state", "", id=2, word=array + 8, found=60, node=0, cache="a")
    assert _roots([pointer, batch]) == {1: None, 2: 1}
    assert _roots([pointer, replace(batch, word=array + 64)]) == {1: None, 2: None}


def test_vectors_where_structures_were_run_over_are_one_damage() -> None:
    heads = [Finding("list-broken", "", id=at, word=LINEAR + 256 * at) for at in (1, 2, 3, 4)]
    vector = Finding("slab-vector-wrong", "", id=5, slab=MAP, word=MAP, found=LINEAR + 0x901)
    assert _roots([*heads, vector])[5] == 1
    assert _roots([*heads[:3], vector])[5] is None
    assert _roots([*heads, replace(vector, found=LINEAR + 0x1901)])[5] is None


def test_free_block_of_another_zone_is_the_one_that_is_missing() -> None:
    count = Finding("page-free-count", "count", id=1, node=0, place="zone DMA", expected=2, found=1)
    zone = Finding("page-zone-wrong", "zone", id=2, page=MAP, expected="zone DMA of node 0")
    assert _roots([count, zone]) == {1: 2, 2: None}
    for other in (
        replace(count, found=3),
        replace(count, expected=3),
        replace(count, place="zone Normal"),
    ):
        assert _roots([other, zone]) == {1: None, 2: None}


def test_what_lies_between_structures_that_were_run_over_is_one_damage_with_them() -> None:
    nodes = [
        Finding("container-state", "node", id=at, cache=f"c{at}", node=0, word=LINEAR + 256 * at)
        for at in range(1, 5)
    ]
    together: Dict[int, Optional[int]] = {1: None, 2: 1, 3: 1, 4: 1}
    free = Finding("freelist-pointer", "free", id=5, slab=MAP, word=LINEAR + 256 * 2 + 64)
    assert _roots([*nodes, free]) == {**together, 5: 1}
    assert _roots([*nodes, replace(free, word=LINEAR + 0x900)]) == {**together, 5: None}
    assert _roots([*nodes[:2], free]) == {1: None, 2: None, 5: None}
    order = Finding("cache-wrong", "order", id=5, cache="c", found=LINEAR + 0x500)
    assert _roots([*nodes, order]) == {**together, 5: 1}
    assert _roots([*nodes, replace(order, found=LINEAR + 0x1500)]) == {**together, 5: None}
