// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The storm: a load that comes to caches the ordinary one leaves alone, and to
 * the ways a slab is given back. It is started as init, leaves its own process
 * behind and becomes the ordinary program, which it waits for to set up.
 *
 * The numbers are in turns, not in time: a guest's clock depends on its host.
 */

#define _GNU_SOURCE
#include "../ground.h"
#include "storm.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NEXT "/base"
#define READY "/tmp/files/2999"
#define GROUP "/sys/fs/cgroup/storm"

unsigned int chance(unsigned int *state, unsigned int below)
{
	*state = *state * 1664525u + 1013904223u;
	return (*state >> 8) % below;
}

void in_a_child(void (*work)(unsigned int seed), unsigned int seed)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work(seed);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void worker(void (*once)(unsigned int seed), unsigned int number)
{
	if (fork())
		return;
	/* Whoever runs wild is killed before anybody else. */
	write_file("/proc/self/oom_score_adj", "500");
	for (unsigned int seed = number * 7919 + 1;; seed++)
		once(seed);
}

static void __attribute__((noreturn)) storm(void)
{
	for (int turn = 0; turn < 600 && access(READY, F_OK); turn++)
		sleep_ms(100);
	mkdir(GROUP, 0755);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	write_file(GROUP "/cgroup.procs", "0");
	prepare_ground();
	raise_loopback();

	worker(names_once, 1);
	worker(sockets_once, 2);
	worker(processes_once, 3);
	worker(queues_once, 4);
	worker(groups_once, 5);
	worker(pressure_once, 6);
	worker(kernel_once, 7);
	run_inside();
	for (;;)
		if (waitpid(-1, NULL, 0) < 0)
			sleep_ms(1000);
}

int main(int argc, char **argv)
{
	/* What the storm runs over and over. The kernel gives words of its command line. */
	if (getpid() != 1 || (argc > 1 && !strcmp(argv[1], "again")))
		return 0;
	if (!fork())
		storm();
	execl(NEXT, NEXT, (char *)NULL);
	return 1;
}
