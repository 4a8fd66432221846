// SPDX-License-Identifier: LGPL-2.1-or-later

/* The storm's own parts: cgroups, memory that runs out, and what only root may do. */

#define _GNU_SOURCE
#include "../ground.h"
#include "storm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

static void eat(size_t limit)
{
	const size_t step = 1 << 20;

	for (size_t eaten = 0; eaten < limit; eaten += step) {
		char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			return;
		memset(memory, 1, step);
	}
}

static void in_group(unsigned int seed)
{
	char path[96], folder[64];

	snprintf(folder, sizeof(folder), "/sys/fs/cgroup/inner-%u", seed % 8);
	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	if (!write_file(path, "0"))
		return;
	snprintf(path, sizeof(path), "%s/memory.max", folder);
	/* Charged to a group that is about to go; now and then it kills its process. */
	write_file(path, seed % 4 ? "max" : "6M");
	for (unsigned int i = 0; i < 4; i++)
		names_once(seed + i);
	if (seed % 4 == 0)
		eat(16 << 20);
}

void groups_once(unsigned int seed)
{
	char folder[64];

	snprintf(folder, sizeof(folder), "/sys/fs/cgroup/inner-%u", seed % 8);
	mkdir(folder, 0755);
	in_a_child(in_group, seed);
	rmdir(folder);
}

static void run_out(unsigned int seed)
{
	(void)seed;
	write_file("/proc/self/oom_score_adj", "1000");
	eat((size_t)-1);
}

static void press(unsigned int seed)
{
	struct sysinfo info;

	write_file("/proc/self/oom_score_adj", "1000");
	if (!sysinfo(&info) && info.freeram > 24 << 20)
		eat(info.freeram - (8 << 20) - (seed % 4 << 20));
}

void pressure_once(unsigned int seed)
{
	/* All that can be reclaimed: dentries and inodes by the slab. */
	write_file("/proc/sys/vm/drop_caches", seed % 2 ? "2" : "3");
	sleep_ms(200);
	in_a_child(press, seed);
	sleep_ms(200);
	if (seed % 5 == 0)
		in_a_child(run_out, seed);
	sleep_ms(400);
}

static void reload(void)
{
	/* One that nothing else uses, and that makes entries in sysfs. */
	int fd = open("/storm/qemu_fw_cfg.ko", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (!syscall(SYS_delete_module, "qemu_fw_cfg", O_NONBLOCK))
		syscall(SYS_finit_module, fd, "", 0);
	close(fd);
}

void kernel_once(unsigned int seed)
{
	static const char *const caches[] = { "dentry", "filp", "kmalloc-64", "kmalloc-512",
					      "vm_area_struct", "task_struct", "sock_inode_cache" };
	const char *cache = caches[chance(&seed, sizeof(caches) / sizeof(caches[0]))];
	char path[96], text[96];

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", cache);
	write_file(path, "1");
	/* SLAB makes new arrays for every CPU. */
	snprintf(text, sizeof(text), "%s %u %u %u\n", cache, 30 + seed % 90, 8 + seed % 20,
		 seed % 9);
	write_file("/proc/slabinfo", text);
	sleep_ms(150);
	if (seed % 4 == 0)
		reload();
	if (seed % 12 == 0 && write_file("/sys/devices/system/cpu/cpu1/online", "0")) {
		sleep_ms(50);
		write_file("/sys/devices/system/cpu/cpu1/online", "1");
	}
	sleep_ms(150);
}
