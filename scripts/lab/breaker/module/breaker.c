// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * Breaks the slab allocator on purpose, one case for each write to
 * /sys/module/breaker/parameters/case, and prints what it did: that is where
 * damage must be found. A write to "look" has the allocator hand out and take
 * back what it has, so that the kernel notices by itself.
 *
 * All is done on the CPU that the writer is bound to, unless a case is about
 * two of them.
 */

#define pr_fmt(format) "breaker: " format

#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#define SIZE 100 /* four bytes of slack behind it */
#define HELD 130 /* three slabs of a page each, and some */
#define COVER 16
#define LARGE (8 * PAGE_SIZE)

static struct kmem_cache *cache;
static u8 *held[HELD];

static struct page *page_of(const void *object)
{
	return virt_to_head_page(object);
}

/* Objects of the slab that is filled now, the last one first. */
static u8 *recent(unsigned int back)
{
	return held[HELD - 1 - back];
}

static unsigned int in_page(struct page *page)
{
	unsigned int index, count = 0;

	for (index = 0; index < HELD; index++)
		count += page_of(held[index]) == page;
	return count;
}

/* Objects of a slab that has none free. */
static u8 *settled(unsigned int number)
{
	unsigned int index, best = 0;

	for (index = 0; index < HELD; index++)
		if (in_page(page_of(held[index])) > in_page(page_of(held[best])))
			best = index;
	for (index = 0; index < HELD; index++)
		if (page_of(held[index]) == page_of(held[best]) && !number--)
			return held[index];
	return held[best];
}

static u8 *victim(u8 *object)
{
	pr_emerg("cache %s object %px page %px\n", "lab_victim", object, page_of(object));
	return object;
}

static void drop(void *object)
{
	pr_emerg("frees %px\n", object);
	kmem_cache_free(cache, object);
}

static long drop_here(void *object)
{
	drop(object);
	return 0;
}

static void drop_elsewhere(void *object)
{
	work_on_cpu(1, drop_here, object);
}

static void write_over(u8 *at, const void *bytes, unsigned int size)
{
	u8 before[16];

	OPTIMIZER_HIDE_VAR(at);
	memcpy(before, at, size);
	memcpy(at, bytes, size);
	pr_emerg("writes %*ph over %*ph at %px\n", (int)size, bytes, (int)size, before, at);
}

static void flip(u8 *at, u8 bit)
{
	u8 byte = *at ^ bit;

	write_over(at, &byte, 1);
}

/* Where SLUB keeps the pointer to the next free object. */
static u8 *freed_word(u8 *object)
{
	unsigned int offset;

	memset(object, 0x11, SIZE);
	drop(object);
	for (offset = 0; offset + 8 <= SIZE; offset += 8)
		if (memchr_inv(object + offset, 0x11, 8))
			return object[0] == POISON_FREE ? object + ALIGN(SIZE, 8) : object + offset;
	return object + ALIGN(SIZE, 8);
}

/* Frees. */

static void double_free(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	drop(object);
}

static void double_free_between(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	drop(recent(5));
	drop(object);
}

static void double_free_cpus(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	drop_elsewhere(object);
}

static void double_free_cpus_between(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	drop_elsewhere(recent(5));
	drop_elsewhere(object);
}

static void double_free_realloc(void)
{
	u8 *object = victim(recent(3)), *again;

	drop(object);
	again = kmem_cache_alloc(cache, GFP_KERNEL);
	pr_emerg("allocates %px\n", again);
	drop(object);
	drop(recent(5));
	drop(again);
}

static void double_free_full(void)
{
	u8 *object = victim(settled(5));

	drop(object);
	drop(settled(7));
	drop(object);
}

static void double_free_partial(void)
{
	u8 *object = victim(settled(5));

	drop(settled(9));
	drop(settled(11));
	drop(object);
	drop(settled(7));
	drop(object);
}

static void double_free_flushed(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	kmem_cache_shrink(cache);
	drop(object);
}

static void double_free_flushed_twice(void)
{
	u8 *object = victim(settled(5));

	drop(object);
	kmem_cache_shrink(cache);
	drop(settled(7));
	drop(object);
	kmem_cache_shrink(cache);
}

static void double_free_bulk(void)
{
	u8 *object = victim(recent(3));
	void *all[] = { object, recent(5), object };

	pr_emerg("frees %px %px %px\n", all[0], all[1], all[2]);
	kmem_cache_free_bulk(cache, ARRAY_SIZE(all), all);
}

static void double_free_bulk_full(void)
{
	u8 *object = victim(settled(5));
	void *all[] = { object, settled(7), object };

	pr_emerg("frees %px %px %px\n", all[0], all[1], all[2]);
	kmem_cache_free_bulk(cache, ARRAY_SIZE(all), all);
}

static void free_interior(void)
{
	u8 *object = victim(recent(3));

	drop(object + 16);
}

static void free_interior_full(void)
{
	u8 *object = victim(settled(5));

	drop(object + 16);
}

static void kfree_interior(void)
{
	u8 *object = kmalloc(SIZE, GFP_KERNEL);

	pr_emerg("cache kmalloc-128 object %px page %px\n", object, page_of(object));
	pr_emerg("frees %px\n", object + 16);
	kfree(object + 16);
}

/* Writes. */

static void late_word(void)
{
	u8 *object = victim(recent(3));

	write_over(freed_word(object), "freehand", 8);
}

static void late_word_full(void)
{
	u8 *object = victim(settled(5));

	write_over(freed_word(object), "freehand", 8);
}

static void late_word_bit(void)
{
	u8 *object = victim(settled(5));

	drop(settled(7));
	flip(freed_word(object) + 1, 0x10);
}

static void late_elsewhere(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	write_over(object + 20, "late", 4);
}

static void late_bit(void)
{
	u8 *object = victim(settled(5));

	drop(object);
	flip(object + 77, 0x04);
}

static void overflow_byte(void)
{
	write_over(victim(recent(3)) + SIZE, "!", 1);
}

static void overflow_word(void)
{
	write_over(victim(recent(3)) + ALIGN(SIZE, 8), "overflow", 8);
}

static void underflow_byte(void)
{
	write_over(victim(recent(3)) - 1, "!", 1);
}

static void underflow_word(void)
{
	write_over(victim(recent(3)) - 8, "underflo", 8);
}

static void overflow_free(void)
{
	u8 *object = victim(recent(3));

	drop(object);
	write_over(object + SIZE, "!", 1);
}

static u8 *from_kmalloc(void)
{
	u8 *object = kmalloc(SIZE, GFP_KERNEL);

	pr_emerg("cache kmalloc-128 object %px page %px\n", object, page_of(object));
	return object;
}

static void kmalloc_overflow_byte(void)
{
	write_over(from_kmalloc() + SIZE, "!", 1);
}

static void kmalloc_overflow_word(void)
{
	write_over(from_kmalloc() + 128, "overflow", 8);
}

static void kmalloc_underflow_word(void)
{
	write_over(from_kmalloc() - 8, "underflo", 8);
}

/* Pages. */

/* Pages that come first when one is wanted. */
static void take_cover(struct page **pages)
{
	unsigned int index;

	for (index = 0; index < COVER; index++)
		pages[index] = alloc_page(GFP_KERNEL);
}

static void leave_cover(struct page **pages)
{
	unsigned int index;

	for (index = 0; index < COVER; index++)
		__free_page(pages[index]);
}

static void put_slab(void)
{
	struct page *page = page_of(victim(settled(5)));
	struct page *pages[COVER];

	take_cover(pages);
	pr_emerg("puts page %px\n", page);
	put_page(page);
	leave_cover(pages);
}

static void page_twice(void)
{
	struct page *pages[COVER];

	take_cover(pages);
	pr_emerg("frees page %px twice\n", pages[0]);
	__free_page(pages[0]);
	leave_cover(pages);
}

static void large_twice(void)
{
	void *large = kmalloc(LARGE, GFP_KERNEL);
	struct page *page = virt_to_page(large);

	pr_emerg("frees page %px twice, of %px\n", page, large);
	kfree(large);
	kfree(large);
}

static void destroy(void)
{
	victim(settled(5));
	pr_emerg("destroys lab_victim\n");
	kmem_cache_destroy(cache);
}

static void nothing(void)
{
	victim(recent(3));
}

static const struct {
	const char *name;
	void (*act)(void);
} cases[] = {
	{ "nothing", nothing },
	{ "double-free", double_free },
	{ "double-free-between", double_free_between },
	{ "double-free-cpus", double_free_cpus },
	{ "double-free-cpus-between", double_free_cpus_between },
	{ "double-free-realloc", double_free_realloc },
	{ "double-free-full", double_free_full },
	{ "double-free-partial", double_free_partial },
	{ "double-free-flushed", double_free_flushed },
	{ "double-free-flushed-twice", double_free_flushed_twice },
	{ "double-free-bulk", double_free_bulk },
	{ "double-free-bulk-full", double_free_bulk_full },
	{ "free-interior", free_interior },
	{ "free-interior-full", free_interior_full },
	{ "kfree-interior", kfree_interior },
	{ "late-word", late_word },
	{ "late-word-full", late_word_full },
	{ "late-word-bit", late_word_bit },
	{ "late-elsewhere", late_elsewhere },
	{ "late-bit", late_bit },
	{ "overflow-byte", overflow_byte },
	{ "overflow-word", overflow_word },
	{ "underflow-byte", underflow_byte },
	{ "underflow-word", underflow_word },
	{ "overflow-free", overflow_free },
	{ "kmalloc-overflow-byte", kmalloc_overflow_byte },
	{ "kmalloc-overflow-word", kmalloc_overflow_word },
	{ "kmalloc-underflow-word", kmalloc_underflow_word },
	{ "put-slab", put_slab },
	{ "page-twice", page_twice },
	{ "large-twice", large_twice },
	{ "destroy", destroy },
};

static int set_case(const char *value, const struct kernel_param *param)
{
	unsigned int index;

	for (index = 0; index < ARRAY_SIZE(cases); index++)
		if (sysfs_streq(value, cases[index].name)) {
			pr_emerg("case %s\n", cases[index].name);
			cases[index].act();
			return 0;
		}
	return -EINVAL;
}

/* As any user would: take what is free, give it back. */
static int set_look(const char *value, const struct kernel_param *param)
{
	static void *taken[HELD];
	unsigned int index;

	pr_emerg("looks\n");
	for (index = 0; index < HELD; index++)
		taken[index] = kmem_cache_alloc(cache, GFP_KERNEL);
	for (index = 0; index < HELD; index++)
		if (taken[index])
			kmem_cache_free(cache, taken[index]);
	pr_emerg("looked\n");
	return 0;
}

static const struct kernel_param_ops case_ops = { .set = set_case };
static const struct kernel_param_ops look_ops = { .set = set_look };

module_param_cb(case, &case_ops, NULL, 0200);
module_param_cb(look, &look_ops, NULL, 0200);

static int __init start(void)
{
	unsigned int index;

	cache = kmem_cache_create("lab_victim", SIZE, 0, 0, NULL);
	if (!cache)
		return -ENOMEM;
	for (index = 0; index < HELD; index++) {
		held[index] = kmem_cache_alloc(cache, GFP_KERNEL);
		if (!held[index])
			return -ENOMEM;
		memset(held[index], 0x11, SIZE);
	}
	return 0;
}
module_init(start);
MODULE_LICENSE("GPL"); /* into which the above may be turned, for the sake of symbols */
MODULE_DESCRIPTION("Breaks the slab allocator on purpose");
