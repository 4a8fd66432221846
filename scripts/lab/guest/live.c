// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * A program of the host's, run in here: the host's root over 9P, read-only,
 * with this kernel's own /proc, /sys and /dev in it, and one folder of the
 * host's to write to.
 */

#include "ground.h"
#include "live.h"

#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT "/host"
#define OPTIONS "trans=virtio,version=9p2000.L,msize=262144,cache="

static bool share(const char *tag, const char *path, unsigned long flags, const char *options)
{
	if (!mount(tag, path, "9p", flags, options))
		return true;
	report("failed to mount %s of the host: %m", tag);
	return false;
}

static bool own(const char *type, const char *path)
{
	char inside[64];

	snprintf(inside, sizeof(inside), ROOT "%s", path);
	if (!mount(type, inside, type, 0, NULL))
		return true;
	report("failed to mount %s: %m", inside);
	return false;
}

void run_live(const char *folder)
{
	char inside[256];
	int status;
	pid_t pid;

	snprintf(inside, sizeof(inside), ROOT "%s", folder);
	mkdir(ROOT, 0755);
	/* What is written must reach the host before this guest ends. */
	if (!share("host", ROOT, MS_RDONLY, OPTIONS "loose") ||
	    !share("lab", inside, 0, OPTIONS "none"))
		return;
	if (!own("proc", "/proc") || !own("sysfs", "/sys") || !own("devtmpfs", "/dev"))
		return;
	pid = fork();
	if (pid == 0) {
		/* The load takes all the CPUs it can get. */
		setpriority(PRIO_PROCESS, 0, -20);
		if (!chroot(ROOT) && !chdir(folder))
			execl("./run", "./run", (char *)NULL);
		_exit(126);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		report("failed to run: %m");
	else
		report("live %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
