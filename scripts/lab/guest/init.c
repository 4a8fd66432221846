// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The guest's only program, run as init: makes the allocators busy, lets the
 * kernel say what it has, and waits for the host to stop the machine. This file
 * alone knows the others; they know the ground and not each other.
 *
 * On the kernel's command line: lab.busy=1 keeps the load running for good,
 * lab.seconds=N says how long it runs otherwise, lab.live=FOLDER has the
 * program run in a folder of the host's run in here while the load goes on.
 */

#include "ground.h"
#include "live.h"
#include "load.h"
#include "oracle.h"
#include "residue.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void load_modules(void)
{
	char name[128], path[160];
	FILE *order = fopen("/modules/order", "re");
	int fd;

	if (!order)
		return;
	while (fscanf(order, "%127s", name) == 1) {
		snprintf(path, sizeof(path), "/modules/%s.ko", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			report("warning module %s: %m", name);
		if (fd >= 0)
			close(fd);
		unlink(path);
	}
	fclose(order);
}

static long option(const char *name, long missing)
{
	char value[32];

	return text_option(name, value, sizeof(value)) ? strtol(value, NULL, 0) : missing;
}

/* What is allocated from now on is charged, as on any machine with systemd. */
static void join_memory_cgroup(void)
{
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	mkdir("/sys/fs/cgroup/lab", 0755);
	if (!write_file("/sys/fs/cgroup/lab/cgroup.procs", "1"))
		report("warning no memory cgroup");
}

static void set_up(void)
{
	struct rlimit files = { 20000, 20000 };

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
	prepare_ground();
	setrlimit(RLIMIT_NOFILE, &files);

	write_file("/proc/sys/kernel/printk", "4");
	write_file("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	/* Those of larger pages are much larger. */
	write_file("/proc/sys/vm/nr_hugepages", page_bytes == 4096 ? "6" : "1");
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "always");
	write_file("/sys/kernel/mm/transparent_hugepage/defrag", "always");
	/* Nothing the kernel does by itself may move pages under the oracle. */
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "0");
	write_file("/proc/sys/vm/compact_unevictable_allowed", "0");
	write_file("/proc/sys/vm/compaction_proactiveness", "0");
	write_file("/proc/sys/vm/stat_interval", "3600");
}

int main(void)
{
	char folder[200];
	long seconds;

	if (getpid() != 1)
		return 1;
	set_up();
	load_modules();
	join_memory_cgroup();
	seconds = option("lab.seconds=", 3);
	report("ready cpus=%d", num_cpus);

	leave_residue();
	start_load();
	report("load");
	if (text_option("lab.live=", folder, sizeof(folder)))
		run_live(folder);
	if (option("lab.busy=", 0))
		for (;;)
			if (waitpid(-1, NULL, 0) < 0)
				sleep_ms(1000);
	sleep_ms((unsigned int)seconds * 1000);
	stop_load();
	thin_residue();
	prepare_oracle();
	take_oracle();
	for (;;)
		;
}
