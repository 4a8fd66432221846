# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel without debug info describes itself, or it is said why not."""

from __future__ import annotations

import pytest
from drgn import Program, TypeKind

from drgn_slabtype.btf import blob as b
from drgn_slabtype.btf import load_btf
from drgn_slabtype.btf.variables import VARIABLES, alternatives
from drgn_slabtype.capture import roots
from drgn_slabtype.errors import TargetError

from ..synthetic.btf import DATA, TEXT, BtfWriter, kernel

SYMBOLS = {
    "vmemmap_populate": TEXT + 0x100,
    "zero_pfn": TEXT + 0x200,
    "slab_caches": DATA,
    "nr_node_ids": DATA + 0x10,
    "vm_event_states": DATA + 0x18,
    "node_states": DATA + 0x20,
    "kmalloc_caches": DATA + 0x40,
    "linux_banner": DATA + 0xC0,
    "kfence_metadata": DATA + 0x100,
    "stack_pools": DATA + 0x400,
    "kmem_cache": DATA + 0x10400,
    "end_of_data": DATA + 0x10408,
    "numa_cpu_lookup_table": DATA + 0x10410,
}


def types(little: bool = True) -> bytes:
    """Return BTF with what the variables need."""
    btf = BtfWriter(little)
    word = btf.integer("long unsigned int", 8)
    btf.integer("unsigned int", 4)
    btf.integer("char", 1, 1)
    btf.integer("int", 4, 1)
    btf.structure("list_head", 16, [("next", word, 0), ("prev", word, 64)])
    btf.structure("kmem_cache", 8, [("flags", word, 0)])
    btf.structure("kfence_metadata", 24, [("addr", word, 0)])
    mask = btf.structure(None, 8, [("bits", word, 0)])
    btf.add(b.TYPEDEF, "nodemask_t", mask)
    btf.enum("node_states", {"N_ONLINE": 1, "NR_NODE_STATES": 3})
    btf.enum("kmalloc_cache_type", {"NR_KMALLOC_TYPES": 4})
    states = btf.structure("vm_event_state", 8, [("event", word, 0)])
    btf.add(b.VAR, "vm_event_states", states, [1])
    proto = btf.prototype(word, [word])
    btf.add(b.FUNC, "vmemmap_populate", proto)
    return btf.data()


@pytest.fixture(params=[True, False], ids=["little", "big"])
def prog(request: pytest.FixtureRequest) -> Program:
    """A kernel that describes itself."""
    little: bool = request.param
    order = "little" if little else "big"
    number = (3).to_bytes(4, order)  # type: ignore[arg-type]
    prog = kernel(SYMBOLS, types(little), little=little, memory={DATA + 0x10: number})
    load_btf(prog)
    return prog


def test_variables(prog: Program) -> None:
    assert prog["nr_node_ids"].value_() == 3
    found = {name: prog.variable(name).type_.type_name() for name in SYMBOLS if name in VARIABLES
             and name != "zero_pfn"}  # fmt: skip
    assert found == {
        "slab_caches": "struct list_head",
        "nr_node_ids": "unsigned int",
        "node_states": "nodemask_t [3]",
        "kmalloc_caches": "struct kmem_cache *[4][4]",
        "linux_banner": "const char [256]",
        "kfence_metadata": "struct kfence_metadata [32]",
        "stack_pools": "void *[8192]",
        "kmem_cache": "struct kmem_cache *",
        "numa_cpu_lookup_table": "int [262144]",
    }
    assert prog["slab_caches"].address_ == DATA


def test_type_of_a_per_cpu_variable_is_its_own(prog: Program) -> None:
    assert prog["vm_event_states"].type_.type_name() == "struct vm_event_state"


def test_what_the_kernel_lacks_is_absent(prog: Program) -> None:
    for name in ("page_offset_base", "zero_pfn", "end_of_data", "nothing"):
        with pytest.raises(LookupError):
            prog.variable(name)
    with pytest.raises(LookupError):
        prog.type("struct slab")


def test_functions_and_constants(prog: Program) -> None:
    function = prog.function("vmemmap_populate")
    assert function.type_.kind == TypeKind.FUNCTION
    assert function.address_ == TEXT + 0x100
    assert prog.constant("N_ONLINE").value_() == 1
    assert prog.symbol("kmem_cache").address == DATA + 0x10400


def test_evidence_says_so() -> None:
    assert load_btf(kernel(SYMBOLS, types())) == (
        "types from the kernel's own BTF (15 of them), symbols from its kallsyms"
    )


def test_symbol_decides_between_types() -> None:
    symbols = {**SYMBOLS, "stack_max_pools": DATA + 8, "kfence_alloc_pool_and_metadata": TEXT + 8}
    prog = kernel(symbols, types())
    load_btf(prog)
    assert prog.variable("stack_pools").type_.type_name() == "void **"
    assert prog.variable("kfence_metadata").type_.type_name() == "struct kfence_metadata *"


def test_every_variable_that_is_read_has_a_type() -> None:
    # Those that mark a place, and those of BTF, need none.
    assert set(roots.VARIABLES) - set(VARIABLES) == {"__per_cpu_start", "__per_cpu_end"}
    for name in VARIABLES:
        assert list(alternatives(name))


def reason(prog: Program) -> str:
    """Return why a kernel cannot describe itself."""
    with pytest.raises(TargetError) as caught:
        load_btf(prog)
    assert "\n" not in str(caught.value)
    with pytest.raises(LookupError):
        prog.type("struct kmem_cache")
    return str(caught.value)


def test_empty_btf() -> None:
    assert reason(kernel(SYMBOLS, b"")) == "its kallsyms give 0 bytes for its BTF"


def without(*names: str) -> Program:
    """Return a kernel whose symbols go by other names."""
    return kernel(SYMBOLS, types(), without=names)


def test_no_btf_symbols() -> None:
    assert reason(without("__start_BTF")) == "it has no BTF (CONFIG_DEBUG_INFO_BTF)"


def test_no_variables_in_kallsyms() -> None:
    assert reason(without("__start_BTF", "slab_caches")) == (
        "its kallsyms have no variables (CONFIG_KALLSYMS_ALL)"
    )


def test_garbage_where_btf_should_be() -> None:
    assert reason(kernel(SYMBOLS, bytes(4096))) == ("there is something else where BTF should be")


def test_btf_that_is_not_in_the_dump() -> None:
    prog = kernel(SYMBOLS, types(), sparse=True)
    assert reason(prog) == "its BTF cannot be read"


def test_number_of_symbols_that_cannot_be() -> None:
    prog = kernel(SYMBOLS, types(), count=0xFFFFFFFF)
    assert reason(prog) == "its kallsyms are damaged: 4294967295 symbols"


def test_kallsyms_that_are_garbage() -> None:
    assert reason(kernel(SYMBOLS, types(), count=0)).startswith("its kallsyms cannot be read: ")


def test_btf_in_the_other_byte_order() -> None:
    assert reason(kernel(SYMBOLS, types(False))) == "its BTF is in the other byte order"
