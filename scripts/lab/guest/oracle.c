// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The oracle: what the kernel says of this very moment.
 *
 * Everything is read into locked memory as the last thing this machine does,
 * with all CPUs kept from doing anything else, and read once more to see that
 * nothing has changed. The data stays in memory and so is part of the dump; the
 * host is told only where it begins.
 *
 * Page 0 holds a struct header, with the page frame numbers of the list pages;
 * these hold the page frame numbers of the data pages. The data is a sequence
 * of "NAME LENGTH\n" followed by LENGTH bytes.
 */

#include "ground.h"
#include "oracle.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAGIC "SLABTYPE-ORACLE1"
#define PFNS_PER_PAGE (page_bytes / 8)
#define MAX_SOURCES 4000
#define MAX_TRIES 60
#define MAX_DUMPS 10
#define HELD_MS 700
#define PAGEMAP_PFN ((1ULL << 55) - 1)

struct header {
	char magic[16];
	uint64_t length;
	uint64_t sum; /* of all 64-bit words of the data */
	uint64_t tries; /* how often they were read before they came to rest */
	uint64_t num_data_pages;
	uint64_t num_list_pages;
	uint64_t list_pfns[];
};

/*
 * Bits of kpageflags that must not change: SLAB, BUDDY, COMPOUND_HEAD and TAIL,
 * HUGE, HWPOISON, NOPAGE, THP, OFFLINE, ZERO_PAGE, PGTABLE. The others tell how
 * pages are used, which goes on.
 */
#define KPF_STEADY 0x5db8480ULL

enum { STEADY, MOVING };

struct source {
	char *name;
	int fd;
	/* STEADY must read the same twice, MOVING need not. */
	int kind;
	size_t begin;
	size_t length;
};

static struct source sources[MAX_SOURCES];
static int num_sources;
static struct header *header;
static uint64_t *lists;
static char *data;
static size_t data_size, used;
static char *scratch;
static size_t scratch_size;
static uint64_t changed_pfn, changed_bits;
static volatile bool *keep_spinning;

static void add_source(const char *path, int kind)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || num_sources == MAX_SOURCES)
		return;
	sources[num_sources].name = strdup(path + 1);
	sources[num_sources].fd = fd;
	sources[num_sources++].kind = kind;
}

static void put(const char *name, const char *bytes, size_t length)
{
	int text = snprintf(data + used, data_size - used, "%s %zu\n", name, length);

	used += (size_t)text;
	memcpy(data + used, bytes, length);
	used += length;
}

static ssize_t read_all(int fd, char *to, size_t size)
{
	size_t length = 0;

	while (length < size) {
		size_t count = size - length < (1 << 17) ? size - length : 1 << 17;
		ssize_t got = pread(fd, to + length, count, (off_t)length);

		if (got < 0)
			return got;
		if (got == 0)
			break;
		length += (size_t)got;
	}
	return (ssize_t)length;
}

static void put_constant(const char *path)
{
	char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return;
	length = read_all(fd, text, sizeof(text));
	close(fd);
	if (length >= 0)
		put(path + 1, text, (size_t)length);
}

static bool moves(const char *attribute)
{
	static const char *const names[] = {
		"objects", "objects_partial", "total_objects", "slabs",
		"partial", "cpu_slabs", "slabs_cpu_partial",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(attribute, names[i]))
			return true;
	return false;
}

static void add_slab_cache(const char *cache)
{
	char path[512], target[256];
	struct dirent *attribute;
	struct stat status;
	ssize_t length;
	DIR *folder;

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s", cache);
	length = readlink(path, target, sizeof(target));
	if (length >= 0) {
		put(path + 1, target, (size_t)length);
		return;
	}
	folder = opendir(path);
	while (folder && (attribute = readdir(folder))) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/%s", cache, attribute->d_name);
		if (stat(path, &status) || !S_ISREG(status.st_mode) || !(status.st_mode & 0444))
			continue;
		if (moves(attribute->d_name))
			add_source(path, STEADY);
		else if (!strstr(attribute->d_name, "calls") && !strstr(attribute->d_name, "_traces"))
			put_constant(path);
	}
	if (folder)
		closedir(folder);
}

static void *locked_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED) {
		report("failed no memory for the oracle");
		exit(1);
	}
	madvise(memory, size, MADV_NOHUGEPAGE);
	/* A fork would make the next write copy the page to another place. */
	madvise(memory, size, MADV_DONTFORK);
	if (mlock(memory, size))
		report("warning mlock: %m");
	memset(memory, 0, size);
	return memory;
}

static uint64_t pfn_of(int pagemap, const void *address)
{
	uint64_t entry = 0;

	if (pread(pagemap, &entry, 8, (off_t)((uintptr_t)address / page_bytes * 8)) != 8)
		report("warning pagemap: %m");
	return entry & PAGEMAP_PFN;
}

static size_t kpage_bytes(void)
{
	/* One word for each page frame up to the end of the last section. */
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t word;
	off_t low = 0, high = (off_t)1 << 28;

	if (fd < 0)
		return 0;
	while (low < high) {
		off_t middle = (low + high) / 2;

		if (pread(fd, &word, 8, middle * 8) == 8)
			low = middle + 1;
		else
			high = middle;
	}
	close(fd);
	return (size_t)low * 8;
}

void prepare_oracle(void)
{
	struct dirent *cache;
	DIR *folder;

	scratch_size = kpage_bytes() + (1 << 16);
	data_size = 2 * scratch_size + (3UL << 20);
	data_size = (data_size + page_bytes - 1) / page_bytes * page_bytes;
	data = locked_memory(data_size);
	scratch = locked_memory(scratch_size);
	header = locked_memory(page_bytes);
	lists = locked_memory((data_size / page_bytes + PFNS_PER_PAGE) / PFNS_PER_PAGE * page_bytes);

	folder = opendir("/sys/kernel/slab");
	while (folder && (cache = readdir(folder)))
		if (cache->d_name[0] != '.')
			add_slab_cache(cache->d_name);
	if (folder)
		closedir(folder);
	put_constant("/proc/version");
	put_constant("/proc/cmdline");
	put_constant("/proc/iomem");
	put_constant("/sys/kernel/vmcoreinfo");
	add_source("/proc/slabinfo", STEADY);
	add_source("/proc/kpageflags", STEADY);
	add_source("/proc/kpagecount", MOVING);
	add_source("/proc/vmstat", MOVING);
	add_source("/proc/zoneinfo", MOVING);
	add_source("/proc/meminfo", MOVING);
	add_source("/proc/buddyinfo", MOVING);
	add_source("/proc/pagetypeinfo", MOVING);
	add_source("/sys/kernel/debug/kfence/stats", MOVING);
}

static void keep_other_cpus(void)
{
	struct sched_param highest = { .sched_priority = 90 };

	keep_spinning = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*keep_spinning = true;
	for (int cpu = 1; cpu < num_cpus; cpu++)
		if (fork() == 0) {
			pin_to_cpu(cpu);
			sched_setscheduler(0, SCHED_FIFO, &highest);
			while (*keep_spinning)
				relax_cpu();
			_exit(0);
		}
	pin_to_cpu(0);
	sleep_ms(50);
	sched_setscheduler(0, SCHED_FIFO, &highest);
}

static void read_sources(void)
{
	for (int i = 0; i < num_sources; i++) {
		struct source *source = &sources[i];
		/* A place for the length, which is known only afterwards. */
		int text = snprintf(data + used, data_size - used, "%s %012d\n", source->name, 0);
		ssize_t length = read_all(source->fd, data + used + text, data_size - used - (size_t)text - 64);
		char digits[24];

		if (length < 0)
			length = 0;
		snprintf(digits, sizeof(digits), "%012zd", length);
		memcpy(data + used + text - 13, digits, 12);
		source->begin = used + (size_t)text;
		source->length = (size_t)length;
		used = source->begin + source->length;
	}
}

/* CONFIG_DEBUG_SLAB adds statistics to each line, which count every call. */
static bool slabinfo_differs(const char *before, const char *now, size_t length)
{
	static const char statistics[] = " : globalstat";
	size_t width = sizeof(statistics) - 1, i = 0, j = 0;

	while (i < length && now[j] && before[i] == now[j]) {
		if (length - i > width && !memcmp(before + i, statistics, width)) {
			while (i < length && before[i] != '\n')
				i++;
			while (now[j] && now[j] != '\n')
				j++;
		} else {
			i++;
			j++;
		}
	}
	return i < length || now[j];
}

static bool differs(const struct source *source, size_t length)
{
	const uint64_t *before = (const uint64_t *)(data + source->begin);
	const uint64_t *now = (const uint64_t *)scratch;

	scratch[length] = 0;
	if (!strcmp(source->name, "proc/slabinfo"))
		return slabinfo_differs(data + source->begin, scratch, source->length);
	if (length != source->length)
		return true;
	if (strcmp(source->name, "proc/kpageflags"))
		return memcmp(scratch, data + source->begin, source->length) != 0;
	/* Words may stand at any byte of the data. */
	for (size_t i = 0; i < source->length / 8; i++) {
		uint64_t word;

		memcpy(&word, before + i, 8);
		if ((word ^ now[i]) & KPF_STEADY) {
			changed_pfn = i;
			changed_bits = (word ^ now[i]) & KPF_STEADY;
			return true;
		}
	}
	return false;
}

static const char *changed_source(void)
{
	for (int i = 0; i < num_sources; i++) {
		struct source *source = &sources[i];
		ssize_t length;

		if (source->kind != STEADY)
			continue;
		length = read_all(source->fd, scratch, scratch_size - 8);
		if (length < 0 || differs(source, (size_t)length))
			return source->name;
	}
	return NULL;
}

static void describe_memory(void)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t pages = data_size / page_bytes;

	for (uint64_t i = 0; i < pages; i++)
		lists[i] = pfn_of(pagemap, data + i * page_bytes);
	header->num_data_pages = pages;
	header->num_list_pages = (pages + PFNS_PER_PAGE - 1) / PFNS_PER_PAGE;
	for (uint64_t i = 0; i < header->num_list_pages; i++)
		header->list_pfns[i] = pfn_of(pagemap, (char *)lists + i * page_bytes);
	memcpy(header->magic, MAGIC, sizeof(header->magic));
	/* Where the header is goes to the host, with the last line. */
	header->sum = pfn_of(pagemap, header);
	close(pagemap);
}

static const char *read_until_steady(uint64_t *tries)
{
	const char *changed = NULL;
	size_t begin = used;

	for (*tries = 1; *tries <= MAX_TRIES; ++*tries) {
		used = begin;
		read_sources();
		header->tries = *tries;
		header->length = used;
		header->sum = 0;
		for (size_t i = 0; i < data_size / 8; i++)
			header->sum += ((uint64_t *)data)[i];
		/* Nothing is done between this and telling the host. */
		changed = changed_source();
		if (!changed)
			break;
	}
	return changed;
}

static void spin_ms(int64_t ms)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < ms);
}

void take_oracle(void)
{
	const char *changed;
	uint64_t tries, header_pfn;
	size_t begin;

	describe_memory();
	header_pfn = header->sum;
	/* Two grace periods: what was freed by RCU is free. */
	for (int i = 0; i < 2; i++) {
		syscall(SYS_membarrier, 1, 0, 0);
		sleep_ms(400);
	}
	keep_other_cpus();
	begin = used;
	/*
	 * The host stops the machine as soon as it is told. The clock stands
	 * while it does, so this goes on after the dump; if nothing has changed
	 * by then, the numbers are those of the dumped moment.
	 */
	for (int i = 0; i < MAX_DUMPS; i++) {
		used = begin;
		changed = read_until_steady(&tries);
		report("oracle pfn=%llu bytes=%zu tries=%llu changed=%s", (unsigned long long)header_pfn,
		       page_bytes, (unsigned long long)tries, changed ? changed : "-");
		spin_ms(HELD_MS);
		changed = changed_source();
		report("held changed=%s pfn=%llu bits=%llx", changed ? changed : "-",
		       (unsigned long long)changed_pfn, (unsigned long long)changed_bits);
		if (!changed)
			return;
		sleep_ms(100);
	}
	report("failed the numbers do not stay the same: %s", changed);
}
