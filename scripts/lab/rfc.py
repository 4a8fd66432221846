# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The layouts proposed for PG_slab in page_type, as edits of Linux 6.1.

"mm: move PG_slab flag to page_type" (RFC v3, December 2022) made slab a page
type and let SLAB keep its active count, negated, in the lower half of the same
word. In the discussion a second shape was named (Alternative 2): SLAB keeps a
plain 16-bit count beside a 16-bit offset of the first object, where the
pointer ``s_mem`` was, and leaves the whole page type word alone.

The edits are written from the description of these layouts.
"""

from __future__ import annotations

from .edits import SourceTree

__all__ = ("alternative_2", "rfc_v3")

_PAGE_FLAGS = "include/linux/page-flags.h"
_SLAB_H = "mm/slab.h"
_SLAB_C = "mm/slab.c"

_TYPES = {
    "buddy": 0x00010000,
    "offline": 0x00020000,
    "table": 0x00040000,
    "guard": 0x00080000,
}

# One set of functions for each page type: tests go through the policy of the
# type (to the head page for slab), the folio variants take the page as it is.
_TYPE_OPS = """\
#define PAGE_TYPE_OPS(uname, lname, policy) \\
static __always_inline int Page##uname(struct page *page) \\
{ return page_type_is(policy(page, 0)->page_type, PG_##lname); } \\
static __always_inline int folio_test_##lname(const struct folio *folio) \\
{ return page_type_is(folio->page.page_type, PG_##lname); } \\
static __always_inline void __SetPage##uname(struct page *page) \\
{ \\
	VM_BUG_ON_PAGE(!page_type_is(policy(page, 1)->page_type, 0), page); \\
	policy(page, 1)->page_type &= ~(unsigned int)PG_##lname; \\
} \\
static __always_inline void __folio_set_##lname(struct folio *folio) \\
{ \\
	VM_BUG_ON_FOLIO(!page_type_is(folio->page.page_type, 0), folio); \\
	folio->page.page_type &= ~(unsigned int)PG_##lname; \\
} \\
static __always_inline void __ClearPage##uname(struct page *page) \\
{ \\
	VM_BUG_ON_PAGE(!Page##uname(page), page); \\
	policy(page, 1)->page_type |= PG_##lname; \\
} \\
static __always_inline void __folio_clear_##lname(struct folio *folio) \\
{ \\
	VM_BUG_ON_FOLIO(!folio_test_##lname(folio), folio); \\
	folio->page.page_type |= PG_##lname; \\
}
"""

_TYPE_TESTS = """\
#define PG_slab		0x00100000
#define PAGE_TYPE_MASK	0xffff0000

#define page_type_is(word, type) \\
	(((word) & (PAGE_TYPE_BASE | (type))) == PAGE_TYPE_BASE)

static inline int page_type_has_type(unsigned int page_type)
{
	return (int)page_type < (int)PAGE_TYPE_MASK;
}

"""


def _move_slab_to_page_type(tree: SourceTree) -> None:
    # Types move to the upper half of the word and slab becomes one of them.
    for name, mask in _TYPES.items():
        tree.substitute(
            _PAGE_FLAGS, rf"^#define PG_{name}\t0x\w+$", f"#define PG_{name}\t{mask:#010x}"
        )
    tree.delete_lines(_PAGE_FLAGS, r"#define PAGE_MAPCOUNT_RESERVE\t.*")
    tree.delete_lines(_PAGE_FLAGS, r"#define PageType\(page, flag\).*\\\n.*")
    tree.insert_before(
        _PAGE_FLAGS, r"static inline int page_has_type\(struct page \*page\)$", _TYPE_TESTS
    )
    tree.substitute(
        _PAGE_FLAGS,
        r"return \(int\)page->page_type < PAGE_MAPCOUNT_RESERVE;",
        "return page_type_has_type(page->page_type);",
    )
    operations = _TYPE_OPS.replace("\\", "\\\\")
    tree.substitute(
        _PAGE_FLAGS, r"^#define PAGE_TYPE_OPS\(uname, lname\)(?:.*\\\n)+.*\n", operations
    )
    tree.substitute(
        _PAGE_FLAGS, r"^PAGE_TYPE_OPS\((\w+), (\w+)\)$", r"PAGE_TYPE_OPS(\1, \2, PF_ANY)", count=4
    )
    tree.substitute(
        _PAGE_FLAGS,
        r"^(PAGE_TYPE_OPS\(Guard, guard, PF_ANY\))$",
        r"\1\n\nPAGE_TYPE_OPS(Slab, slab, PF_NO_TAIL)",
    )

    # The page flag goes, with what was made from it.
    tree.delete_lines(_PAGE_FLAGS, r"\tPG_slab,.*")
    tree.delete_lines(_PAGE_FLAGS, r"__PAGEFLAG\(Slab, slab, PF_NO_TAIL\)")
    tree.substitute(_PAGE_FLAGS, r"1UL << PG_slab\s*\| (?=1UL << PG_active)", "")
    tree.delete_lines("include/trace/events/mmflags.h", r".*1UL << PG_slab,.*")
    tree.delete_lines("mm/memory-failure.c", r"#define slab\t.*PG_slab.*")
    tree.delete_lines("mm/memory-failure.c", r"\t\{ slab,.*MF_MSG_SLAB.*")
    tree.delete_lines("mm/memory-failure.c", r"#undef slab")

    # What user space and dump tools are told.
    tree.substitute(
        "kernel/crash_core.c",
        r"VMCOREINFO_NUMBER\(PG_slab\);",
        "VMCOREINFO_NUMBER(PAGE_SLAB_MAPCOUNT_VALUE);",
    )
    tree.insert_before(
        "kernel/crash_core.c",
        r"static int __init crash_save_vmcoreinfo_init\(void\)",
        "#define PAGE_SLAB_MAPCOUNT_VALUE (~PG_slab)\n\n",
    )
    tree.substitute("fs/proc/page.c", r"PageSlab\(ppage\) \|\| (?=page_has_type)", "")
    tree.substitute("fs/proc/page.c", r"!PageSlab\(page\) && (?=page_mapped)", "")
    tree.substitute(
        "fs/proc/page.c",
        r"^\tu \|= kpf_copy_bit\(k, KPF_SLAB,\s*PG_slab\);\n"
        r"\tif \(PageTail\(page\) && PageSlab\(.*\)\)$",
        "\tif (PageSlab(page))",
    )


_ACTIVE = """\
/*
 * The lower half of page_type is SLAB's: all ones for no active object, one
 * less for each.
 */
static inline unsigned int slab_get_active(const struct slab *slab)
{
	return ~(slab->page_type | PG_slab);
}

static inline void slab_inc_active(struct slab *slab)
{
	slab->page_type--;
}

static inline void slab_dec_active(struct slab *slab)
{
	slab->page_type++;
}

"""


def rfc_v3(tree: SourceTree) -> None:
    """
    Apply the layout of RFC v3.

    :param tree: Sources of Linux 6.1.
    :raises EditError: if a place to change is not found.
    """
    _move_slab_to_page_type(tree)
    tree.substitute(_SLAB_H, r"^\tunsigned int active;$", "\tunsigned int page_type;")
    # A new slab's word is all ones but for its type: no active object.
    tree.delete_lines(_SLAB_C, r"\tslab->active = 0;")
    tree.substitute(_SLAB_C, r"\bslab->active\+\+", "slab_inc_active(slab)")
    tree.substitute(_SLAB_C, r"\bslab->active--", "slab_dec_active(slab)")
    tree.substitute(_SLAB_C, r"\bslab->active\b", "slab_get_active(slab)", count=12)
    tree.assert_absent(r"\bslab->active\b", _SLAB_C, _SLAB_H)
    tree.insert_before(_SLAB_C, r"static inline void \*index_to_obj\(", _ACTIVE)


_FIRST_OBJECT = """\
static inline void *slab_s_mem(const struct slab *slab)
{
	return slab_address(slab) + slab->s_mem_offset;
}

"""


def alternative_2(tree: SourceTree) -> None:
    """
    Apply the layout discussed with the RFC as its second alternative.

    The word that replaces the pointer has ``active`` in its lower and the
    offset of the first object, in bytes, in its upper half. A colour that does
    not fit is not used.

    :param tree: Sources of Linux 6.1.
    :raises EditError: if a place to change is not found.
    """
    _move_slab_to_page_type(tree)
    tree.substitute(
        _SLAB_H,
        r"^\tvoid \*s_mem;.*\n\tunsigned int active;$",
        "\tunsigned int active:16;\n\tunsigned int s_mem_offset:16;\n"
        "\tunsigned int __unused;\n\tunsigned int page_type;",
    )
    header = "include/linux/slab_def.h"
    tree.insert_before(header, r"static inline void \*nearest_obj\(", _FIRST_OBJECT)
    tree.substitute(header, r"\bslab->s_mem\b", "slab_s_mem(slab)", count=3)
    tree.substitute(
        _SLAB_C,
        r"^\tslab->s_mem = addr \+ colour_off;$",
        "\tslab->s_mem_offset = colour_off > 0xffff ? 0 : colour_off;",
    )
    tree.substitute(_SLAB_C, r"\bslab->s_mem\b", "slab_s_mem(slab)")
    tree.substitute(
        "mm/kfence/core.c",
        r"^\tslab->s_mem = addr;$",
        "\tslab->s_mem_offset = addr - slab_address(slab);",
    )
    tree.assert_absent(r"->s_mem\b", _SLAB_C, _SLAB_H, header, "mm/kfence/core.c")
