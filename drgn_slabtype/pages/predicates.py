# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a page is
--------------

The kernel's own tests for ``struct page``, ``struct folio`` and ``struct
slab``, with the names and the answers they have in the kernel that is being
debugged, whatever its layout:

>>> page = virt_to_page(0xffff88800098f000)
>>> PageSlab(page), page_types(page)
(True, ('slab',))

Tests named ``Page*`` take any page. ``PageSlab()`` and ``PageHuge()`` are true
for the tail pages of a compound page where the kernel's are; all other types
are marks of the very page that is given. Tests named ``folio_test_*`` take a
folio, or its head page, and never look for the head.

All of them read the target: what they say may change on a live kernel, and
they raise :exc:`drgn.FaultError` for a page that is not in a dump. A type that
the kernel does not have raises :exc:`~drgn_slabtype.LayoutError`, since
its pages exist all the same, without a mark.
"""

from __future__ import annotations

from typing import Callable, Tuple

from drgn import IntegerLike, Object, Program, sizeof

from ..arguments import word32_of
from ..errors import LayoutError
from ..machine import Machine, machine
from ..pagetype.detect import PageTypeLayout
from .words import address_of, flags_of, head_of, layout_of, word_of

__all__ = (
    "PageBuddy",
    "PageGuard",
    "PageHuge",
    "PageHugetlb",
    "PageLargeKmalloc",
    "PageOffline",
    "PageSlab",
    "PageTable",
    "PageUnaccepted",
    "PageZsmalloc",
    "folio_test_buddy",
    "folio_test_guard",
    "folio_test_hugetlb",
    "folio_test_large_kmalloc",
    "folio_test_offline",
    "folio_test_pgtable",
    "folio_test_slab",
    "folio_test_unaccepted",
    "folio_test_zsmalloc",
    "page_has_type",
    "page_type_has_type",
    "page_type_text",
    "page_type_word",
    "page_types",
)


def _test(page: Object, type: str) -> bool:
    layout = layout_of(page)
    if type not in layout.encoding.types:
        raise LayoutError(
            f"this kernel has no page type {type} ({layout.encoding.name}); "
            f"it has {', '.join(layout.encoding.types)}"
        )
    return layout.encoding.is_type(word_of(page, layout), type)


def _test_slab(page: Object, layout: PageTypeLayout) -> bool:
    return bool(layout.is_slab(flags_of(page, layout), word_of(page, layout)))


def PageSlab(page: Object) -> bool:
    """
    Return whether a page belongs to the slab allocator.

    For the tail pages of a slab this is true, as in the kernel, up to Linux
    6.18. Since Linux 6.19, and with "[RFC PATCH] mm: move PG_slab flag to
    page_type", it is false for them: use ``compound_head()`` first.

    >>> PageSlab(pfn_to_page(0x98f))
    True

    :param page: ``struct page *``
    """
    # Before Linux kernel commit 46df8e73a4a3 ("mm: free up PG_slab") (in
    # v6.10), this is a page flag; the layout knows.
    layout = layout_of(page)
    if layout.page_slab_follows_head and flags_of(page, layout) != layout.flags_mask:
        page = head_of(page)
    return _test_slab(page, layout)


def folio_test_slab(folio: Object) -> bool:
    """
    Return whether a folio belongs to the slab allocator.

    >>> folio_test_slab(cast("struct folio *", pfn_to_page(0x98f)))
    True

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test_slab(folio, layout_of(folio))


def PageBuddy(page: Object) -> bool:
    """
    Return whether a page is free and the first of its block in the buddy allocator.

    >>> PageBuddy(pfn_to_page(0x593))
    True

    :param page: ``struct page *``
    """
    return _test(page, "buddy")


def folio_test_buddy(folio: Object) -> bool:
    """
    Return whether a folio is a free block of the buddy allocator.

    >>> folio_test_buddy(cast("struct folio *", pfn_to_page(0x593)))
    True

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "buddy")


def PageOffline(page: Object) -> bool:
    """
    Return whether a page is logically offline, such as one in a balloon.

    Since "mm: convert PG_balloon to PG_offline" (in v5.1).

    >>> PageOffline(pfn_to_page(0x1601))
    True

    :param page: ``struct page *``
    """
    return _test(page, "offline")


def folio_test_offline(folio: Object) -> bool:
    """
    Return whether a folio is logically offline.

    >>> folio_test_offline(cast("struct folio *", pfn_to_page(0x1601)))
    True

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "offline")


def PageTable(page: Object) -> bool:
    """
    Return whether a page is in use as a page table.

    Since Linux kernel commit 1d40a5ea01d5 ("mm: mark pages in use for page
    tables") (in v4.18).

    >>> PageTable(pfn_to_page(0x148))
    True

    :param page: ``struct page *``
    """
    return _test(page, "table")


def folio_test_pgtable(folio: Object) -> bool:
    """
    Return whether a folio is in use as a page table.

    >>> folio_test_pgtable(cast("struct folio *", pfn_to_page(0x148)))
    True

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "table")


def PageGuard(page: Object) -> bool:
    """
    Return whether a page is a guard page of ``debug_pagealloc``.

    Since "mm, debug_pagealloc: use a page type instead of page_ext flag" (in
    v5.3).

    >>> PageGuard(pfn_to_page(0x148))
    False

    :param page: ``struct page *``
    """
    return _test(page, "guard")


def folio_test_guard(folio: Object) -> bool:
    """
    Return whether a folio is a guard page of ``debug_pagealloc``.

    >>> folio_test_guard(cast("struct folio *", pfn_to_page(0x148)))
    False

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "guard")


def PageHuge(page: Object) -> bool:
    """
    Return whether a page belongs to a HugeTLB folio, as head or as tail.

    >>> PageHuge(pfn_to_page(0x200))
    True

    :param page: ``struct page *``
    """
    layout = layout_of(page)
    if flags_of(page, layout) == layout.flags_mask:
        return False
    return folio_test_hugetlb(head_of(page))


PageHugetlb = PageHuge
"""The same; the kernel calls the test ``PageHuge()`` and the type ``hugetlb``."""


def folio_test_hugetlb(folio: Object) -> bool:
    """
    Return whether a folio is a HugeTLB folio.

    >>> folio_test_hugetlb(cast("struct folio *", pfn_to_page(0x200)))
    True

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    address_of(folio)
    return machine(folio.prog_).fact(_hugetlb_test)(folio)


def _hugetlb_test(machine: Machine) -> Callable[[Object], bool]:
    layout = machine.layout
    # Since Linux kernel commit d99e3140a4d3 ("mm: turn folio_test_hugetlb into
    # a PageType") (in v6.9).
    if "hugetlb" in layout.encoding.types:
        return lambda folio: _test(folio, "hugetlb")
    page_size = sizeof(machine.prog.type("struct page"))

    def is_large(folio: Object) -> bool:
        return bool(flags_of(folio, layout) & 1 << layout.head_flag)

    # In Linux 6.6 to 6.8, it is a flag of the second page.
    flag = machine.enumerators("pageflags").get("PG_hugetlb")
    if flag is not None:

        def test_flag(folio: Object) -> bool:
            second = address_of(folio) + page_size + layout.flags_offset
            return is_large(folio) and bool(machine.prog.read_word(second) & 1 << flag)

        return test_flag

    # Before that, it is a destructor, kept in the second page. The enumerator
    # depends on CONFIG_HUGETLB_PAGE.
    dtor = machine.enumerators("compound_dtor_id").get("HUGETLB_PAGE_DTOR")
    if dtor is None:
        return lambda folio: False

    def test_dtor(folio: Object) -> bool:
        if not is_large(folio):
            return False
        try:
            kept = Object(machine.prog, "struct page *", address_of(folio))[1].compound_dtor
        except AttributeError:
            # Since "mm: remove 'First tail page' members from struct page" (in
            # v6.3), it is a member of struct folio.
            kept = Object(machine.prog, "struct folio *", address_of(folio))._folio_dtor
        return bool(kept.value_() == dtor)

    return test_dtor


def PageZsmalloc(page: Object) -> bool:
    """
    Return whether a page belongs to zsmalloc.

    Since Linux kernel commit 43d746dc49bb ("mm/zsmalloc: use a proper page
    type") (in v6.11).

    >>> try:
    ...     print(PageZsmalloc(pfn_to_page(0x98f)))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type zsmalloc (rfc-v3); it has buddy, offline, table, guard, slab

    :param page: ``struct page *``
    """
    return _test(page, "zsmalloc")


def folio_test_zsmalloc(folio: Object) -> bool:
    """
    Return whether a folio belongs to zsmalloc.

    >>> try:
    ...     print(folio_test_zsmalloc(cast("struct folio *", pfn_to_page(0x98f))))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type zsmalloc (rfc-v3); it has buddy, offline, table, guard, slab

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "zsmalloc")


def PageUnaccepted(page: Object) -> bool:
    """
    Return whether a page is the first of a block that the guest has not accepted yet.

    Since Linux 6.12.

    >>> try:
    ...     print(PageUnaccepted(pfn_to_page(0x98f)))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type unaccepted (rfc-v3); it has buddy, offline, table, guard, slab

    :param page: ``struct page *``
    """
    return _test(page, "unaccepted")


def folio_test_unaccepted(folio: Object) -> bool:
    """
    Return whether a folio is a block that the guest has not accepted yet.

    >>> try:
    ...     print(folio_test_unaccepted(cast("struct folio *", pfn_to_page(0x98f))))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type unaccepted (rfc-v3); it has buddy, offline, table, guard, slab

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "unaccepted")


def PageLargeKmalloc(page: Object) -> bool:
    """
    Return whether a page is the head of a ``kmalloc()`` too large for a slab cache.

    Since "slab: Mark large folios for debugging purposes" (in v6.15).

    >>> try:
    ...     print(PageLargeKmalloc(pfn_to_page(0x98f)))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type large_kmalloc (rfc-v3); it has buddy, offline, table, guard, slab

    :param page: ``struct page *``
    """
    return _test(page, "large_kmalloc")


def folio_test_large_kmalloc(folio: Object) -> bool:
    """
    Return whether a folio is a ``kmalloc()`` too large for a slab cache.

    >>> try:
    ...     print(folio_test_large_kmalloc(cast("struct folio *", pfn_to_page(0x98f))))
    ... except LayoutError as error:
    ...     print(error)
    this kernel has no page type large_kmalloc (rfc-v3); it has buddy, offline, table, guard, slab

    :param folio: ``struct folio *``, or its head ``struct page *``
    """
    return _test(folio, "large_kmalloc")


def page_type_word(page: Object) -> int:
    """
    Return the 32-bit word that holds the type or the map count of a page.

    >>> page = virt_to_page(0xffff88800098f000)
    >>> hex(page_type_word(page))
    '0xffefffef'

    :param page: ``struct page *``, ``struct folio *`` or ``struct slab *``
    :return: The word, from 0 to 0xffffffff.
    """
    return word_of(page, layout_of(page))


def page_types(page: Object) -> Tuple[str, ...]:
    """
    Return the names of the types that a page has, in the kernel's spelling.

    A healthy page has one type or none. Slab is among them also where it is a
    page flag. Only the given page is looked at, never its head.

    >>> page = virt_to_page(0xffff88800098f000)
    >>> page_types(page)
    ('slab',)

    :param page: ``struct page *``
    """
    layout = layout_of(page)
    types = layout.encoding.types_of(word_of(page, layout))
    if layout.slab_flag is not None and _test_slab(page, layout):
        return (*types, "slab")
    return types


def page_type_text(page: Object) -> str:
    """
    Return the page type as the kernel prints it in ``dump_page()``.

    See :meth:`Encoding.text`.

    >>> page = virt_to_page(0xffff88800098f000)
    >>> page_type_text(page)
    '0xffefffef(slab|0x10)'

    :param page: ``struct page *``
    """
    return layout_of(page).encoding.text(page_type_word(page))


def page_has_type(page: Object) -> bool:
    """
    Return whether the word of a page is a page type, not a map count.

    The kernel's ``page_has_type()`` differs from this for two words that no
    page has (Linux 6.12 to 6.14), and is never true with "[RFC PATCH] mm: move
    PG_slab flag to page_type".

    >>> page = virt_to_page(0xffff88800098f000)
    >>> page_has_type(page)
    True

    :param page: ``struct page *``
    """
    word = page_type_word(page)
    return page_type_has_type(page.prog_, word)


def page_type_has_type(prog: Program, word: IntegerLike) -> bool:
    """
    Return whether a word is a page type, not a map count.

    >>> page_type_has_type(prog, 0xffefffff), page_type_has_type(prog, 3)
    (True, False)

    :param word: The 32-bit word, signed or unsigned.
    """
    return machine(prog).layout.encoding.has_type(word32_of(word))
