# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free pointers: encoded chains are followed back, damaged ones end."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from random import Random
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_slabtype.allocators.slub import freelists
from drgn_slabtype.allocators.slub.freelists import Chains, Encoding, Geometry, decode, follow
from drgn_slabtype.ledger import U64, Walk

LINEAR = 0xFFFF888000000000
ALL = (1 << 64) - 1
STRIDES = (8, 16, 24, 96, 328, 4096)


@dataclass
class Pool:
    """The free chains of some slabs, as memory holds them."""

    encoding: Encoding
    secret: int
    stride: int
    offset: int
    bases: List[int]
    objects: List[int]
    chains: List[List[int]]
    stored: Dict[Tuple[int, int], int]
    """Words that are not what the chain asks for."""

    def address(self, slab: int, index: int) -> int:
        return self.bases[slab] + index * self.stride

    def heads(self) -> List[int]:
        return [self.address(s, chain[0]) if chain else 0 for s, chain in enumerate(self.chains)]

    def encode(self, slab: int, index: int, pointer: int) -> int:
        where = self.address(slab, index) + self.offset & ALL
        if self.encoding is Encoding.PLAIN:
            return pointer
        if self.encoding is Encoding.SWAPPED:
            where = int.from_bytes(where.to_bytes(8, "little"), "big")
        return pointer ^ self.secret ^ where

    def words(self) -> U64:
        """Write everything down."""
        words = np.full((len(self.bases), max(self.objects)), 0x5A5A5A5A5A5A5A5A, np.uint64)
        for slab, chain in enumerate(self.chains):
            for index, after in zip(chain, [*chain[1:], None]):
                pointer = 0 if after is None else self.address(slab, after)
                words[slab, index] = self.encode(slab, index, pointer)
        for (slab, index), pointer in self.stored.items():
            words[slab, index] = self.encode(slab, index, pointer)
        return words

    def geometry(self) -> Geometry:
        return Geometry(
            np.array(self.bases, np.uint64),
            np.array(self.objects, np.int64),
            self.stride,
            self.offset,
            self.encoding,
            self.secret,
        )

    def follow(
        self, heads: Optional[Sequence[int]] = None, readable: Optional[Sequence[bool]] = None
    ) -> Chains:
        return follow(
            self.geometry(),
            np.array(self.heads() if heads is None else heads, np.uint64),
            self.words(),
            np.array([True] * len(self.bases) if readable is None else readable),
        )


def entries(chains: Chains, slab: int) -> List[int]:
    mine = chains.slab == slab
    assert chains.position[mine].tolist() == list(range(int(chains.length[slab])))
    return chains.index[mine].tolist()


def end(chains: Chains, slab: int) -> Tuple[Walk, int, int]:
    return Walk(chains.state[slab]), int(chains.culprit[slab]), int(chains.value[slab])


@st.composite
def pools(draw: st.DrawFn, min_free: int = 0, min_slabs: int = 1) -> Pool:
    rng = Random(draw(st.integers(0, 1 << 16)))
    stride = draw(st.sampled_from(STRIDES))
    pool = Pool(
        draw(st.sampled_from(list(Encoding))),
        draw(st.integers(0, ALL)),
        stride,
        draw(st.integers(0, stride // 8 - 1)) * 8,
        [],
        [],
        [],
        {},
    )
    for number in range(draw(st.integers(min_slabs, 5))):
        objects = draw(st.integers(max(1, min_free), 32))
        pool.bases.append(LINEAR + (number << 24))
        pool.objects.append(objects)
        free = draw(st.integers(min_free, objects))
        pool.chains.append(rng.sample(range(objects), free))
    return pool


@given(pools())
def test_encoded_chains_are_followed_back(pool: Pool) -> None:
    chains = pool.follow()
    assert [entries(chains, slab) for slab in range(len(pool.bases))] == pool.chains
    assert not chains.state.any()
    addresses = [pool.address(s, i) for s, i in zip(chains.slab.tolist(), chains.index.tolist())]
    assert chains.address.tolist() == addresses


def test_chains_that_end_are_not_looked_at_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bases = [LINEAR + (number << 24) for number in range(50)]
    chains = [[*range(number)] for number in range(50)]
    pool = Pool(Encoding.SWAPPED, 99, 64, 32, bases, [64] * 50, chains, {})
    monkeypatch.setattr(freelists, "_follow_each", None)
    assert pool.follow().length.tolist() == [*range(50)]


@given(
    st.sampled_from(list(Encoding)), st.integers(0, ALL), st.integers(0, ALL), st.integers(0, ALL)
)
def test_decode_is_its_own_inverse(
    encoding: Encoding, pointer: int, where: int, secret: int
) -> None:
    at = np.array([where], np.uint64)
    stored = decode(encoding, np.array([pointer], np.uint64), at, secret)
    assert decode(encoding, stored, at, secret).tolist() == [pointer]


def test_decode_gives_the_words_of_a_hardened_kernel() -> None:
    # As Linux 6.1 stores them: next ^ random ^ swab(address of the word).
    where = np.array([0xFFFF8880012345F8], np.uint64)
    stored = np.array([0xFFFF888001234600 ^ 0x0123456789ABCDEF ^ 0xF84523018088FFFF], np.uint64)
    found = decode(Encoding.SWAPPED, stored, where, 0x0123456789ABCDEF)
    assert found.tolist() == [0xFFFF888001234600]


# Damage. Each gives the pointer to put in, for a slab.

Pointer = Callable[[Pool, int, Random], int]
BAD: Dict[str, Pointer] = {
    "just below": lambda p, s, r: p.bases[s] - p.stride,
    "just above": lambda p, s, r: p.address(s, p.objects[s]),
    "misaligned": lambda p, s, r: p.bases[s] + p.stride * p.objects[s] - r.randrange(1, p.stride),
    "another slab": lambda p, s, r: p.bases[s - 1],
    "user address": lambda p, s, r: 0x7F0000001000,
    "one": lambda p, s, r: 1,
    "all ones": lambda p, s, r: ALL,
    "poison": lambda p, s, r: 0xDEAD000000000100,
    "page zero": lambda p, s, r: p.bases[s] % p.stride or p.stride,
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda name: name.replace(" ", "-"))
@given(pools(min_free=1, min_slabs=2), st.integers(0, 1 << 16).map(Random))
@settings(max_examples=30)
def test_pointer_out_of_its_slab_ends_the_chain(bad: str, pool: Pool, rng: Random) -> None:
    slab = rng.randrange(len(pool.bases))
    position = rng.randrange(len(pool.chains[slab]))
    victim = pool.chains[slab][position]
    pointer = BAD[bad](pool, slab, rng)
    pool.stored[slab, victim] = pointer
    chains = pool.follow()
    assert end(chains, slab) == (Walk.POINTER, victim, pointer)
    assert entries(chains, slab) == pool.chains[slab][: position + 1]
    _others_are_whole(pool, chains, slab)


@pytest.mark.parametrize("bad", BAD, ids=lambda name: name.replace(" ", "-"))
@given(pools(min_slabs=2), st.integers(0, 1 << 16).map(Random))
@settings(max_examples=30)
def test_bad_head_is_blamed(bad: str, pool: Pool, rng: Random) -> None:
    slab = rng.randrange(len(pool.bases))
    heads = pool.heads()
    heads[slab] = BAD[bad](pool, slab, rng)
    chains = pool.follow(heads)
    assert end(chains, slab) == (Walk.POINTER, -1, heads[slab])
    assert entries(chains, slab) == []
    _others_are_whole(pool, chains, slab)


@given(pools(min_free=1), st.integers(0, 1 << 16).map(Random))
def test_cycle_ends_the_chain(pool: Pool, rng: Random) -> None:
    slab = rng.randrange(len(pool.bases))
    chain = pool.chains[slab]
    position = rng.randrange(len(chain))
    back = pool.address(slab, chain[rng.randint(0, position)])
    pool.stored[slab, chain[position]] = back
    chains = pool.follow()
    assert end(chains, slab) == (Walk.CYCLE, chain[position], back)
    assert entries(chains, slab) == chain[: position + 1]
    _others_are_whole(pool, chains, slab)


@given(pools(min_free=1), st.integers(0, 1 << 16).map(Random))
def test_slabs_whose_freelist_leads_to_an_address_are_told(pool: Pool, rng: Random) -> None:
    slab = rng.randrange(len(pool.bases))
    position = rng.randrange(len(pool.chains[slab]) + 1)
    wanted = LINEAR + (1 << 40)
    heads = pool.heads()
    if position:
        pool.stored[slab, pool.chains[slab][position - 1]] = wanted
    else:
        heads[slab] = wanted
    found = pool.geometry().lead_to(
        range(wanted - 8, wanted + 8), np.array(heads, np.uint64), pool.words()
    )
    assert found.tolist() == [one == slab for one in range(len(pool.bases))]


def test_object_that_points_at_itself_is_a_cycle_of_one() -> None:
    pool = Pool(Encoding.SWAPPED, 0x1234, 64, 32, [LINEAR], [64], [[7]], {})
    pool.stored[0, 7] = pool.address(0, 7)
    chains = pool.follow()
    assert end(chains, 0) == (Walk.CYCLE, 7, pool.address(0, 7))
    assert entries(chains, 0) == [7]


@given(pools(min_free=1), st.integers(0, 1 << 16).map(Random))
def test_unreadable_slab_is_told_apart(pool: Pool, rng: Random) -> None:
    slab = rng.randrange(len(pool.bases))
    chains = pool.follow(readable=[row != slab for row in range(len(pool.bases))])
    assert Walk(chains.state[slab]) is Walk.UNREADABLE
    # The head itself is known, and nothing beyond it.
    assert entries(chains, slab) == pool.chains[slab][:1]
    _others_are_whole(pool, chains, slab)


@given(pools(), st.integers(0, 1 << 16))
def test_garbage_never_hangs(pool: Pool, seed: int) -> None:
    rng = Random(seed)
    rubbish = replace(
        pool,
        stored={
            (slab, index): rng.choice(
                [pool.address(slab, rng.randrange(objects)), rng.getrandbits(64)]
            )
            for slab, objects in enumerate(pool.objects)
            for index in range(objects)
        },
    )
    heads = [pool.address(s, rng.randrange(n)) for s, n in enumerate(pool.objects)]
    chains = rubbish.follow(heads)
    assert (chains.length >= 1).all()
    assert (chains.length <= np.array(pool.objects)).all()
    assert (chains.state != Walk.UNREADABLE).all()


def test_slabs_that_can_hold_no_object_have_only_bad_heads() -> None:
    # A damaged cache can claim objects that are larger than its slabs.
    zero = np.zeros(2, np.int64)
    bases = np.array([LINEAR, LINEAR + 4096], np.uint64)
    geometry = Geometry(bases, zero, 1 << 20, 0, Encoding.PLAIN, 0)
    chains = follow(geometry, bases, np.zeros((2, 0), np.uint64), np.ones(2, np.bool_))
    assert chains.state.tolist() == [Walk.POINTER, Walk.POINTER]
    assert chains.value.tolist() == bases.tolist()


def test_no_slabs_give_no_entries() -> None:
    none = np.zeros(0, np.uint64)
    geometry = Geometry(none, np.zeros(0, np.int64), 64, 0, Encoding.PLAIN, 0)
    chains = follow(geometry, none, np.zeros((0, 1), np.uint64), np.zeros(0, np.bool_))
    assert len(chains.slab) == len(chains.length) == 0


def test_ten_thousand_slabs_take_less_than_a_second() -> None:
    slabs, objects, stride = 10_000, 64, 64
    rng = np.random.default_rng(1)
    bases = LINEAR + np.arange(slabs, dtype=np.uint64) * np.uint64(objects * stride)
    order = rng.permuted(np.tile(np.arange(objects), (slabs, 1)), axis=1)
    addresses = bases[:, None] + order.astype(np.uint64) * np.uint64(stride)
    after = np.concatenate([addresses[:, 1:], np.zeros((slabs, 1), np.uint64)], axis=1)
    words = np.empty_like(after)
    stored = decode(Encoding.SWAPPED, after, addresses, 0x1234567)
    np.put_along_axis(words, order, stored, axis=1)
    geometry = Geometry(
        bases, np.full(slabs, objects, np.int64), stride, 0, Encoding.SWAPPED, 0x1234567
    )
    start = time.process_time()
    chains = follow(geometry, addresses[:, 0], words, np.ones(slabs, np.bool_))
    took = time.process_time() - start
    assert (chains.length == objects).all()
    assert not chains.state.any()
    assert took < 1


def _others_are_whole(pool: Pool, chains: Chains, but: int) -> None:
    for slab in range(len(pool.bases)):
        if slab != but:
            assert entries(chains, slab) == pool.chains[slab]
            assert Walk(chains.state[slab]) is Walk.WHOLE
