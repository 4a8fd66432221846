# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types of variables
------------------

BTF has the types of per-CPU variables only. Those of the others that are read
are written down here, as their declarations in the kernel have them.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

from drgn import Program, Type, sizeof


class Alternative(NamedTuple):
    """A type that a variable had for some releases."""

    type: str
    """As in C; behind it the lengths of an array, ``[]`` for all there is."""
    symbol: str
    """The kernel has this symbol if it has that type."""


# Behind the last variable of a section there may be room for nothing.
_MAX_ROOM = 1 << 20

Declaration = Union[str, Tuple[Union[str, Alternative], ...]]

VARIABLES: Dict[str, Declaration] = {
    # Slab caches.
    "slab_caches": "struct list_head",
    "slab_caches_to_rcu_destroy": "struct list_head",
    "slab_mutex": "struct mutex",
    "slab_state": "enum slab_state",
    "slab_kset": "struct kset *",
    "kmem_cache": "struct kmem_cache *",
    "kmem_cache_node": "struct kmem_cache *",
    "kmem_cache_boot": "struct kmem_cache",
    # Since Linux kernel commit d0a38fad51cc ("mm, slab: store kmem_cache
    # buckets in a typedef'd array") (in v6.11).
    "kmalloc_caches": (
        "kmem_buckets [NR_KMALLOC_TYPES]",
        "struct kmem_cache * [NR_KMALLOC_TYPES][]",
    ),
    "kmalloc_size_index": "u8 [24]",
    "slab_nodes": "nodemask_t",
    "slab_max_order": "int",
    "use_alien_caches": "int",
    "slub_debug": "slab_flags_t",
    "slub_debug_enabled": "struct static_key_false",
    "bootstrap_sheaf": "struct slab_sheaf",
    "task_struct_cachep": "struct kmem_cache *",
    "thread_stack_cache": "struct kmem_cache *",
    # Traces. Since "stackdepot: allow the number of pools to be set at boot"
    # the table is allocated.
    "stack_slabs": "void * []",
    "stack_pools": (Alternative("void * *", "stack_max_pools"), "void * []"),
    # KFENCE. Since Linux kernel commit cabdf74e6b31 ("mm: kfence: allocate
    # kfence_metadata at runtime") (in v6.6), its metadata is allocated.
    "__kfence_pool": "char *",
    "kfence_metadata": (
        Alternative("struct kfence_metadata *", "kfence_alloc_pool_and_metadata"),
        "struct kfence_metadata []",
    ),
    "kfence_freelist": "struct list_head",
    "kfence_enabled": "bool",
    "kfence_sample_interval": "unsigned long",
    "kfence_allocation_gate": "atomic_t",
    # Nodes and zones.
    "nr_node_ids": "unsigned int",
    "nr_online_nodes": "unsigned int",
    "node_states": "nodemask_t [NR_NODE_STATES]",
    "node_data": "struct pglist_data * []",
    "contig_page_data": "struct pglist_data",
    "vm_node_stat": "atomic_long_t [NR_VM_NODE_STAT_ITEMS]",
    "vm_zone_stat": "atomic_long_t [NR_VM_ZONE_STAT_ITEMS]",
    "vm_numa_event": "atomic_long_t [NR_VM_NUMA_EVENT_ITEMS]",
    "vm_numa_stat": "atomic_long_t [NR_VM_NUMA_STAT_ITEMS]",
    "_totalram_pages": "atomic_long_t",
    "sysctl_numa_balancing_mode": "int",
    # CPUs.
    "nr_cpu_ids": "unsigned int",
    "numa_cpu_lookup_table": "int []",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "cpu_online_mask": "const struct cpumask *",
    "cpu_possible_mask": "const struct cpumask *",
    "cpu_present_mask": "const struct cpumask *",
    "cpu_bit_bitmap": "const unsigned long []",
    "__num_online_cpus": "atomic_t",
    "__per_cpu_offset": "unsigned long []",
    "pcpu_base_addr": "void *",
    "pcpu_unit_offsets": "const unsigned long *",
    "pcpu_lock": "spinlock_t",
    "pcpu_nr_slots": "int",
    # Since Linux kernel commit 3c7be18ac9a0 ("mm: memcg/percpu: account percpu
    # memory to memory cgroups") (in v5.9), pcpu_slot is pcpu_chunk_lists.
    "pcpu_slot": "struct list_head *",
    "pcpu_chunk_lists": "struct list_head *",
    "panic_cpu": "atomic_t",
    "crashing_cpu": "int",
    # Memory.
    "init_mm": "struct mm_struct",
    "mem_section": "struct mem_section * *",
    "mem_map": "struct page *",
    "max_mapnr": "unsigned long",
    "max_pfn": "unsigned long",
    "max_low_pfn": "unsigned long",
    "min_low_pfn": "unsigned long",
    "high_memory": "void *",
    "__highest_present_section_nr": "unsigned long",
    "page_offset_base": "unsigned long",
    "kernel_map": "struct kernel_mapping",
    "vmemmap_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "phys_base": "unsigned long",
    "kimage_voffset": "u64",
    "memstart_addr": (Alternative("phys_addr_t", "kernstart_virt_addr"), "s64"),
    "pageblock_order": "unsigned int",
    # Pages.
    "pageflag_names": "const struct trace_print_flags []",
    "transparent_hugepage_flags": "unsigned long",
    "zero_pfn": "unsigned long",
    "zero_page_pfn": "unsigned long",
    "zero_page_mask": "unsigned long",
    "huge_zero_page": "struct page *",
    "huge_zero_folio": "struct folio *",
    "_debug_guardpage_minorder": "unsigned int",
    "_debug_pagealloc_enabled": "struct static_key_false",
    # The machine.
    "saved_command_line": "char *",
    "linux_banner": "const char [256]",
    "init_pid_ns": "struct pid_namespace",
    "init_uts_ns": "struct uts_namespace",
    "jiffies_64": "u64",
    "prb": "struct printk_ringbuffer *",
    "tainted_mask": "unsigned long",
    "global_quarantine": "struct qlist_head []",
    "clocksource_jiffies": "struct clocksource",
}
"""Types by name of the variable; of several, the first that the kernel has counts."""


def alternatives(name: str) -> Iterable[Alternative]:
    """Return the types that a variable had; none if it is not known."""
    declared = VARIABLES.get(name, ())
    for one in (declared,) if isinstance(declared, str) else declared:
        yield Alternative(one, "") if isinstance(one, str) else one


def variable_type(
    prog: Program, name: str, has: Callable[[str], bool], size: Callable[[], int]
) -> Optional[Type]:
    """
    Return the type of a variable.

    :param has: Whether the kernel has a symbol.
    :param size: Bytes that are there for the variable, at least.
    :return: ``None`` if it is not known, or needs types that this kernel lacks.
    """
    for type, symbol in alternatives(name):
        if symbol and not has(symbol):
            continue
        try:
            return _parse(prog, type, size)
        except LookupError:
            continue
    return None


def _parse(prog: Program, text: str, size: Callable[[], int]) -> Type:
    element, *lengths = text.split("[")
    type = prog.type(element.strip())
    if not lengths:
        return type
    known: List[Optional[int]] = []
    whole = sizeof(type)
    for length in lengths:
        name = length.rstrip("]")
        known.append(int(name) if name.isdecimal() else int(prog.constant(name)) if name else None)
        whole *= known[-1] or 1
    for count in reversed(known):
        type = prog.array_type(
            type, min(size(), _MAX_ROOM) // max(whole, 1) if count is None else count
        )
    return type
