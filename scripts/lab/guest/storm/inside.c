// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * A program of the host's, run in here while the storm goes on: its arguments
 * and its environment are files with one of them a line.
 */

#define _GNU_SOURCE
#include "../ground.h"
#include "storm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 64

static char **lines(const char *path)
{
	static char *none[1];
	char **found = calloc(MOST + 1, sizeof(*found)), *line = NULL;
	FILE *file = fopen(path, "re");
	size_t size = 0;
	int count = 0;

	if (!file || !found)
		return none;
	while (count < MOST && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = 0;
		found[count++] = strdup(line);
	}
	fclose(file);
	return found;
}

void run_inside(void)
{
	char **arguments = lines("/inside/arguments"), line[240];
	int ends[2], status = -1;
	FILE *said;
	pid_t pid;

	if (!arguments[0] || pipe(ends))
		return;
	pid = fork();
	if (pid == 0) {
		/* The storm takes all the CPUs it can get, and memory runs out. */
		setpriority(PRIO_PROCESS, 0, -20);
		write_file("/proc/self/oom_score_adj", "-1000");
		write_file("/sys/fs/cgroup/cgroup.procs", "0");
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		close(ends[0]);
		close(ends[1]);
		execve(arguments[0], arguments, lines("/inside/environment"));
		_exit(126);
	}
	close(ends[1]);
	said = fdopen(ends[0], "re");
	while (said && fgets(line, sizeof(line), said)) {
		line[strcspn(line, "\n")] = 0;
		report("inside %s", line);
	}
	waitpid(pid, &status, 0);
	report("ended %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
