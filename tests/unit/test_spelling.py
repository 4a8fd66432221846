# SPDX-License-Identifier: LGPL-2.1-or-later
"""What somebody meant stands first."""

from __future__ import annotations

import pytest

from drgn_slabtype.spelling import nearest

SIZES = [f"kmalloc-{size}" for size in (8, 16, 32, 64, 96, 128, 192, 256, 512)]


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("kmalloc-65", ["kmalloc-64", "kmalloc-96", "kmalloc-32"]),
        ("kmalloc-100", ["kmalloc-96", "kmalloc-128", "kmalloc-64"]),
        ("kmalloc-46", ["kmalloc-32", "kmalloc-64", "kmalloc-16"]),
        ("kmaloc-64", ["kmalloc-64"]),
        ("malloc-51", ["kmalloc-512"]),
    ],
)
def test_the_nearest_name_is_the_first(word: str, first: list[str]) -> None:
    for known in (SIZES, SIZES[::-1]):
        assert nearest(word, known)[: len(first)] == first


def test_names_that_begin_alike_stand_before_those_that_end_alike() -> None:
    for known in (["ybcdx", "abcdy"], ["abcdy", "ybcdx"]):
        assert nearest("abcdx", known) == ["abcdy", "ybcdx"]


def test_names_that_go_on_from_what_was_typed() -> None:
    assert nearest("o", ["objects", "owners", "page", "refs of"]) == ["objects", "owners"]
    assert nearest("inode", ["ext4_inode_cache", "inode_cache"]) == [
        "inode_cache",
        "ext4_inode_cache",
    ]
    assert nearest("", ["a"]) == []
