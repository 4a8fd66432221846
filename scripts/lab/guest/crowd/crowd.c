// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The crowd: millions of objects of a few caches, and holes between them, as a
 * machine has that was up for long. It is started as init, and becomes the
 * ordinary program when it is done.
 */

#define _GNU_SOURCE
#include "../ground.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NEXT "/base"
#define HOME "/crowd"
#define NUM_FILES 250000
#define NUM_MISSING 500000
#define NUM_MESSAGES 1500000
#define MOST_BYTES 400

static void make_files(unsigned int number, uint64_t *seed)
{
	char name[64];

	for (int i = 0; i < NUM_FILES; i++) {
		snprintf(name, sizeof(name), HOME "/%u-%d", number, i);
		close(open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0644));
	}
	for (int i = 0; i < NUM_FILES; i++) {
		snprintf(name, sizeof(name), HOME "/%u-%d", number, i);
		if (random_next(seed) % 3 == 0)
			unlink(name);
	}
}

/* Names that do not exist in sysfs become negative dentries. */
static void miss_files(void)
{
	char name[64];

	for (int i = 0; i < NUM_MISSING; i++) {
		snprintf(name, sizeof(name), "/sys/missing-%d", i);
		access(name, F_OK);
	}
}

/* Of two queues that share their slabs one goes away. */
static void send_messages(uint64_t *seed)
{
	struct {
		long type;
		char text[MOST_BYTES];
	} message = { .type = 1 };
	int kept = msgget(IPC_PRIVATE, 0600), gone = msgget(IPC_PRIVATE, 0600);

	for (int i = 0; i < NUM_MESSAGES; i++) {
		uint64_t random = random_next(seed);

		msgsnd(random % 3 ? kept : gone, &message, random / 3 % MOST_BYTES, IPC_NOWAIT);
	}
	msgctl(gone, IPC_RMID, NULL);
}

static void raise_limits(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir(HOME, 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("tmpfs", HOME, "tmpfs", 0, "nr_inodes=0");
	write_file("/proc/sys/kernel/msgmnb", "2000000000");
}

int main(void)
{
	if (getpid() != 1)
		return 0;
	raise_limits();
	for (unsigned int number = 0; number < 4; number++) {
		uint64_t seed = 0x9e3779b97f4a7c15 * (number + 1);

		if (fork())
			continue;
		if (number < 2)
			make_files(number, &seed);
		else if (number == 2)
			miss_files();
		else
			send_messages(&seed);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	execl(NEXT, NEXT, (char *)NULL);
	return 1;
}
