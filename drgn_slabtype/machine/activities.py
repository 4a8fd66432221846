# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work in progress, by who does it
--------------------------------

Half-made states exist only while a CPU is in certain functions of the kernel,
or a task was taken off its CPU there. Here are their names, from Linux 5.10 to
7.3, in one place. A kernel has some of each; a function that is missing does no
harm, one too many excuses too much.
"""

from __future__ import annotations

from typing import FrozenSet, Mapping, NamedTuple, Optional, Tuple


class Activity(NamedTuple):
    """One kind of work."""

    title: str
    """What is done, as a sentence goes on after "nobody is"."""
    functions: FrozenSet[str]
    """Functions in which it is done, the end of a split one's name left out."""
    within: FrozenSet[str]
    """Functions that a compiler may have put those into."""
    at_the_end: FrozenSet[str] = frozenset()
    """What those jump to at their end, so that nothing else of them is left on the stack; it
    counts only while a CPU runs it."""


class Presence(NamedTuple):
    """Who is doing one kind of work."""

    title: str
    """What kind of work, as a sentence goes on after "nobody is"."""
    seen: Tuple[str, ...]
    """``CPU 2, pid 123 (name): __slab_free+0x1b3``: one for each CPU or task that is at it."""
    gap: Optional[str]
    """Why there may be somebody else; ``None`` if there is nobody else."""


def base_name(symbol: str) -> str:
    """
    Return the name of a function as its source has it.

    A compiler splits functions and makes copies of them: ``__slab_free.cold``,
    ``get_partial_node.part.0``, ``expand.constprop.0``, ``free_block.isra.0``.
    """
    return symbol.partition(".")[0] if not symbol.startswith(".") else symbol


def _names(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


# SLUB: a slab is made, taken off a list or put on one, given to a CPU or taken
# from it, or freed; what changes under list_lock.
_SLUB_SLABS = _names("""
    ___slab_alloc __slab_alloc __kmem_cache_alloc_bulk refill_objects __refill_objects
    __refill_objects_node __refill_objects_any
    new_slab new_slab_objects allocate_slab alloc_slab_page setup_object setup_object_debug
    setup_slab_debug setup_page_debug shuffle_freelist build_slab_freelist account_slab
    account_slab_page unaccount_slab unaccount_slab_page alloc_slab_obj_exts init_slab_obj_exts
    alloc_slab_obj_exts_early memcg_alloc_slab_cgroups memcg_alloc_page_obj_cgroups
    early_kmem_cache_node_alloc alloc_single_from_new_slab alloc_single_from_partial
    alloc_from_new_slab alloc_whole_from_new_slab inc_slabs_node dec_slabs_node
    get_partial get_partial_node get_any_partial get_partial_node_bulk get_from_partial_node
    get_from_any_partial get_any_partial_bulk get_from_partial acquire_slab freeze_slab get_freelist
    get_freelist_nofreeze get_cpu_partial kmem_cache_alloc_node_slab
    __slab_free do_slab_free slab_free_bulk __kmem_cache_free_bulk kmem_cache_free_bulk
    __slab_update_freelist slab_update_freelist cmpxchg_double_slab __cmpxchg_double_slab
    free_debug_processing free_to_partial_list free_slab_to_list
    deactivate_slab flush_slab flush_cpu_slab __flush_cpu_slab flush_all flush_all_cpus_locked
    unfreeze_partials __unfreeze_partials unfreeze_partials_cpu put_cpu_partial put_partials
    put_partials_cpu __put_partials slub_cpu_dead
    add_partial __add_partial remove_partial add_full remove_full
    discard_slab free_slab __free_slab rcu_free_slab free_new_slab_nolock
    defer_free defer_deactivate_slab free_deferred_objects deferred_percpu_work_fn
    build_detached_freelist do_kmem_cache_create __kmem_cache_create __kmem_cache_create_args
    kmem_cache_create_usercopy __kmem_cache_release
    __kmem_cache_do_shrink __kmem_cache_shrink kmem_cache_shrink kmem_cache_shrink_all
    slab_mem_going_offline_callback slab_mem_offline_callback slab_memory_callback
    free_partial __kmem_cache_shutdown list_slab_objects shutdown_cache kmem_cache_destroy
    kmem_cache_release slab_fix slab_bug on_freelist
""")
# SLUB: many slabs leave their list at once and are sorted, to be put back or given back.
_SLUB_SHRINK = _names("""
    __kmem_cache_do_shrink __kmem_cache_shrink kmem_cache_shrink kmem_cache_shrink_all
    slab_mem_going_offline_callback slab_memory_callback free_partial __kmem_cache_shutdown
    shutdown_cache kmem_cache_destroy get_partial_node_bulk __refill_objects_node
    __refill_objects_any __refill_objects refill_objects
""")
# SLUB: a CPU gives its slab back.
_SLUB_CPU_SLABS = _names("""
    deactivate_slab flush_slab flush_cpu_slab __flush_cpu_slab slub_cpu_dead
    ___slab_alloc __slab_alloc new_slab_objects
""")
# SLUB: a slab is made, and objects of it are handed out before anybody else can have it.
_SLUB_NEW_SLABS = _names("""
    new_slab new_slab_objects allocate_slab shuffle_freelist build_slab_freelist setup_object
    setup_object_debug account_slab inc_slabs_node alloc_from_new_slab alloc_whole_from_new_slab
    alloc_single_from_new_slab refill_objects __refill_objects ___slab_alloc __slab_alloc
    __kmem_cache_alloc_bulk
""")
# Where objects come from and go to, and what else leads there.
_OBJECTS = _names("""
    slab_alloc slab_alloc_node __slab_alloc_node kmem_cache_alloc kmem_cache_alloc_noprof
    __kmem_cache_alloc_lru kmem_cache_alloc_lru kmem_cache_alloc_lru_noprof
    kmem_cache_alloc_node kmem_cache_alloc_node_noprof kmem_cache_alloc_trace
    kmem_cache_alloc_node_trace kmalloc_trace kmalloc_node_trace kmalloc_trace_noprof
    kmalloc_node_trace_noprof __kmalloc_cache_noprof __kmalloc_cache_node_noprof
    __kmem_cache_alloc_node __kmem_cache_free __kmalloc __kmalloc_noprof __kmalloc_node
    __kmalloc_node_noprof __kmalloc_track_caller __kmalloc_node_track_caller
    __kmalloc_node_track_caller_noprof __do_kmalloc_node __do_kmalloc kmalloc_nolock_noprof
    _kmalloc_nolock_noprof kmem_cache_alloc_bulk kmem_cache_alloc_bulk_noprof krealloc
    krealloc_noprof krealloc_node_align_noprof kvmalloc_node kvmalloc_node_noprof
    __kvmalloc_node_noprof kfree_sensitive
    slab_free slab_free_after_rcu_debug kmem_cache_free kmem_cache_free_bulk kfree kfree_nolock
    kvfree ___cache_free __cache_free __do_cache_free do_slab_free memcg_alloc_abort_single
    slab_free_freelist_hook slab_free_hook slab_post_alloc_hook slab_pre_alloc_hook
    kfree_rcu_work kfree_bulk kvfree_call_rcu kvfree_rcu_bulk kfree_rcu_cpu_scheduled
    alloc_debug_processing alloc_single_from_partial alloc_single_from_new_slab
    free_debug_processing free_to_partial_list free_consistency_checks alloc_consistency_checks
    init_object init_tracking set_track set_track_update set_track_prepare set_orig_size
    setup_object setup_object_debug trace check_object check_slab slab_pad_check
    __kmalloc_flags_noprof __kmalloc_nolock_noprof kvfree_atomic kvfree_rcu_cb defer_kfree_rcu
    kvrealloc_node_align_noprof kvrealloc_noprof build_detached_freelist
    cache_alloc_debugcheck_after cache_alloc_debugcheck_before cache_free_debugcheck
    slab_alloc_node do_cache_alloc __do_cache_alloc ____cache_alloc ____cache_alloc_node
    fallback_alloc alternate_node_alloc poison_obj check_poison_obj slab_destroy_debugcheck
    cache_init_objs cache_init_objs_debug
""")
# Sheaves and barns, since Linux 6.18.
_SHEAVES = _names("""
    alloc_from_pcs alloc_from_pcs_bulk __pcs_replace_empty_main __pcs_replace_full_main
    __pcs_install_empty_sheaf free_to_pcs free_to_pcs_bulk can_free_to_pcs __kfree_rcu_sheaf
    alloc_empty_sheaf __alloc_empty_sheaf free_empty_sheaf refill_sheaf alloc_full_sheaf
    sheaf_flush_main sheaf_try_flush_main sheaf_flush_unused __sheaf_flush_main_batch
    sheaf_flush __rcu_free_sheaf_prepare rcu_free_sheaf rcu_free_sheaf_nobarn
    pcs_flush_all __pcs_flush_all_cpu pcs_destroy flush_all_rcu_sheaves flush_rcu_sheaf
    flush_rcu_sheaves_on_cache flush_cpu_sheaves flush_all flush_all_cpus_locked
    barn_init barn_shrink barn_get_empty_sheaf barn_put_empty_sheaf barn_put_full_sheaf
    barn_get_full_or_empty_sheaf barn_get_full_sheaf barn_replace_empty_sheaf
    barn_replace_full_sheaf barn_shrink_all
    kmem_cache_prefill_sheaf kmem_cache_return_sheaf kmem_cache_refill_sheaf
    kmem_cache_alloc_from_sheaf_noprof kmem_cache_alloc_from_sheaf __prefill_sheaf_pfmemalloc
    init_percpu_sheaves bootstrap_cache_sheaves bootstrap_kmalloc_sheaves
    free_percpu_sheaves __slub_free_rcu_sheaf slub_cpu_dead slub_cpu_setup
    __kmem_cache_do_shrink __kmem_cache_shutdown kvfree_call_rcu free_deferred_objects
    deferred_percpu_work_fn
""")
# SLAB: a slab is made, linked, unlinked or destroyed; arrays are filled and emptied.
_SLAB_SLABS = _names("""
    cache_grow_begin cache_grow_end kmem_getpages alloc_slabmgmt slab_map_pages cache_init_objs
    cache_init_objs_debug shuffle_freelist cache_alloc_refill cache_alloc_pfmemalloc
    ____cache_alloc ____cache_alloc_node __do_cache_alloc do_cache_alloc fallback_alloc
    alternate_node_alloc get_first_slab get_valid_first_slab fixup_slab_list fixup_objfreelist_debug
    alloc_block slab_get_obj slab_put_obj slab_should_failslab
    free_block cache_flusharray ___cache_free __cache_free_alien cache_free_alien
    drain_array drain_array_locked drain_array_cpu drain_alien_cache do_drain drain_cpu_caches
    drain_freelist reap_alien cache_reap __drain_alien_cache transfer_objects slabs_destroy
    slab_destroy kmem_rcu_free kmem_freepages __kmem_cache_shrink __kmem_cache_shutdown
    kmem_cache_shrink kmem_cache_destroy shutdown_cache cancel_cpu_workqueue cpuup_canceled
    cpuup_prepare slab_prepare_cpu slab_dead_cpu do_tune_cpucache enable_cpucache
    setup_kmem_cache_node setup_kmem_cache_nodes init_cache_node slabinfo_write
    drain_cache_node_node slab_memory_callback free_alien_cache __do_tune_cpucache
    kmem_cache_free_bulk __cache_free __do_kmalloc
""")
# The page allocator: blocks are taken out of free memory and given back.
_PAGES = _names("""
    get_page_from_freelist rmqueue rmqueue_buddy rmqueue_pcplist rmqueue_bulk __rmqueue
    __rmqueue_smallest __rmqueue_fallback __rmqueue_cma_fallback __rmqueue_claim __rmqueue_steal
    __rmqueue_pcplist try_to_claim_block try_to_steal_block steal_suitable_fallback
    find_suitable_fallback page_del_and_expand expand del_page_from_free_list
    __del_page_from_free_list add_to_free_list __add_to_free_list add_to_free_list_tail
    move_to_free_list account_freepages change_pageblock_range
    move_freepages move_freepages_block __move_freepages_block prep_move_freepages_block
    __move_freepages_block_isolate move_freepages_block_isolate
    pageblock_isolate_and_move_free_pages
    pageblock_unisolate_and_move_free_pages free_pcp_prepare
    __shuffle_zone __shuffle_free_memory free_compound_page free_pages_bulk
    free_prepared_contig_range __free_contig_range_common __free_contig_range
    free_contig_frozen_range free_reserved_page free_reserved_pages free_reserved_area
    set_migratetype_isolate unset_migratetype_isolate
    isolate_single_pageblock start_isolate_page_range undo_isolate_page_range
    reserve_highatomic_pageblock unreserve_highatomic_pageblock
    __free_one_page free_one_page split_large_buddy __free_pages_ok free_pcppages_bulk
    free_unref_page free_unref_page_commit free_unref_page_prepare free_unref_page_list
    free_unref_folios free_frozen_pages __free_frozen_pages free_frozen_page_commit
    __free_pages free_pages ___free_pages free_the_page __free_page_core __free_pages_core
    __free_pages_prepare free_pages_prepare free_tail_pages_check free_tail_page_prepare
    check_free_page prep_new_page post_alloc_hook prep_compound_page prep_compound_head
    prep_compound_tail destroy_large_folio __page_frag_cache_drain
    drain_pages drain_pages_zone drain_local_pages drain_local_pages_wq drain_zone_pages
    __drain_all_pages decay_pcp_high __isolate_free_page isolate_freepages
    isolate_freepages_block isolate_freepages_range fast_isolate_freepages split_map_pages
    split_free_pages split_free_page split_free_frozen_pages release_freepages release_free_list
    compaction_alloc compaction_free compaction_alloc_noprof compact_zone capture_free_page
    compaction_capture take_page_off_buddy put_page_back_buddy break_down_buddy_pages
    __putback_isolated_page page_reporting_cycle page_reporting_drain page_reporting_process_zone
    alloc_contig_range alloc_contig_range_noprof __alloc_contig_migrate_range
    alloc_contig_frozen_range_noprof free_contig_range __offline_isolated_pages offline_pages
    online_pages online_pages_range generic_online_page accept_page __accept_page
    accept_one_page try_to_accept_memory try_to_accept_memory_one cond_accept_memory
    alloc_pages_bulk_noprof __alloc_pages_bulk alloc_pages_bulk_array_mempolicy
    __alloc_pages __alloc_pages_noprof __alloc_frozen_pages_noprof __alloc_pages_nodemask
    __alloc_pages_slowpath __alloc_pages_direct_compact __alloc_pages_direct_reclaim
    split_page make_alloc_exact page_alloc_cpu_dead set_page_guard clear_page_guard
    alloc_frozen_pages_nolock_noprof alloc_pages_nolock_noprof try_alloc_pages_noprof
    free_pages_nolock free_frozen_pages_nolock
""")
# Compound pages that come about or end elsewhere: HugeTLB folios of several
# blocks, and folios that are split.
_COMPOUND = _names("""
    prep_compound_gigantic_page __prep_compound_gigantic_page prep_compound_gigantic_folio
    __prep_compound_gigantic_folio prep_compound_gigantic_page_for_demote
    prep_compound_gigantic_folio_for_demote destroy_compound_gigantic_page
    __destroy_compound_gigantic_page destroy_compound_gigantic_folio
    __destroy_compound_gigantic_folio destroy_compound_hugetlb_page_for_demote
    destroy_compound_hugetlb_folio_for_demote
    prep_and_add_allocated_folios prep_and_add_bootmem_folios gather_bootmem_prealloc
    hugetlb_folio_init_vmemmap hugetlb_folio_init_tail_vmemmap
    update_and_free_page __update_and_free_page update_and_free_hugetlb_folio
    __update_and_free_hugetlb_folio alloc_fresh_huge_page alloc_fresh_hugetlb_folio
    alloc_buddy_huge_page alloc_buddy_hugetlb_folio alloc_gigantic_page alloc_gigantic_folio
    demote_pool_huge_page demote_free_huge_page demote_free_hugetlb_folio
    demote_free_hugetlb_folios demote_store dissolve_free_huge_page dissolve_free_hugetlb_folio
    alloc_huge_page_vmemmap free_huge_page_vmemmap hugetlb_vmemmap_alloc hugetlb_vmemmap_free
    hugetlb_vmemmap_restore hugetlb_vmemmap_optimize hugetlb_vmemmap_restore_folio
    hugetlb_vmemmap_restore_folios hugetlb_vmemmap_optimize_folio
    hugetlb_vmemmap_optimize_folios __hugetlb_vmemmap_restore_folio
    __hugetlb_vmemmap_optimize_folio __hugetlb_vmemmap_optimize_folios
    vmemmap_remap_free vmemmap_remap_alloc vmemmap_remap_range
    split_huge_page_to_list split_huge_page_to_list_to_order __split_huge_page
    __split_huge_page_tail __split_huge_page_to_list_to_order __split_folio_to_order
    __split_unmapped_folio __folio_split __folio_freeze_and_split_unmapped folio_split
    folio_split_unmapped try_folio_split deferred_split_scan
""")
# KFENCE: an object is marked as given out before its page is filled.
_GUARDED = _names("__kfence_alloc kfence_guarded_alloc")
# Who holds a lock of the allocators without changing anything.
_READERS = _names("""
    validate_slab validate_slab_node validate_slab_cache process_slab slab_debug_trace_open
    count_partial count_partial_free_approx get_slabinfo slabinfo_show slab_show
    show_slab_objects list_locations slab_attr_show kmem_dump_obj kmem_cache_open
    slabs_show objects_show partial_show total_objects_show objects_partial_show cpu_slabs_show
    slabs_cpu_partial_show __kmem_cache_empty cache_show leaks_show
    slab_out_of_memory dump_unreclaimable_slab validate_store validate_show
""")
_UNLOCKING = _names("""
    _raw_spin_unlock _raw_spin_unlock_irq _raw_spin_unlock_irqrestore rt_spin_unlock
    __pv_queued_spin_unlock __pv_queued_spin_unlock_slowpath
""")

SLUB_SLABS = "slub-slabs"
SLUB_SHRINK = "slub-shrink"
SLUB_CPU_SLABS = "slub-cpu-slabs"
SLUB_NEW_SLABS = "slub-new-slabs"
SLUB_SHEAVES = "slub-sheaves"
SLUB_ANY = "slub"
SLAB_SLABS = "slab-slabs"
OBJECTS = "objects"
GUARDED = "guarded"
PAGES = "pages"
COMPOUND = "compound-pages"
LOCKS = "locks"

# A page allocator that was called last, by a call that never returns to its
# caller, is all that is left of it on the stack: hence its callers, too.
ACTIVITIES: Mapping[str, Activity] = {
    SLUB_SLABS: Activity("making, moving or giving back a slab", _SLUB_SLABS, _OBJECTS),
    SLUB_SHRINK: Activity("taking many slabs off a list", _SLUB_SHRINK, frozenset()),
    SLUB_NEW_SLABS: Activity("making a slab", _SLUB_NEW_SLABS, frozenset()),
    SLUB_CPU_SLABS: Activity("taking the slab from a CPU", _SLUB_CPU_SLABS, frozenset()),
    SLUB_SHEAVES: Activity(
        "filling, emptying or exchanging sheaves", _SHEAVES | _SLUB_SLABS, _OBJECTS
    ),
    SLUB_ANY: Activity(
        "taking or giving back objects or slabs", _SLUB_SLABS | _SHEAVES | _OBJECTS, frozenset()
    ),
    SLAB_SLABS: Activity(
        "making, moving or giving back slabs, or filling or emptying arrays",
        _SLAB_SLABS,
        _OBJECTS,
    ),
    OBJECTS: Activity(
        "allocating or freeing an object", _OBJECTS | _SLUB_SLABS | _SLAB_SLABS, frozenset()
    ),
    GUARDED: Activity("taking an object from KFENCE's pool", _GUARDED, frozenset()),
    PAGES: Activity("taking or giving back pages", _PAGES, frozenset()),
    COMPOUND: Activity(
        "making, splitting or giving back compound pages", _PAGES | _COMPOUND, frozenset()
    ),
    LOCKS: Activity(
        "where such a lock is held",
        _SLUB_SLABS | _SHEAVES | _SLAB_SLABS | _READERS,
        _OBJECTS,
        _UNLOCKING,
    ),
}
"""Every kind of work that excuses name, by the name they use."""

DEAD_ENDS: FrozenSet[str] = _names("do_exit make_task_dead rewind_stack_do_exit do_task_dead")
"""What is called from a function never goes on once these were called."""

EVERY_FUNCTION: FrozenSet[str] = frozenset().union(
    *(
        activity.functions | activity.within | activity.at_the_end
        for activity in ACTIVITIES.values()
    )
)
"""All functions that any activity names."""
