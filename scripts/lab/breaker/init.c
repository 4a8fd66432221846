// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The only program of a guest whose kernel is broken on purpose, run as init:
 * "write FILE TEXT" and "load MODULE PARAMETERS" come from the host, over the second serial
 * port. Each is done by a process of its own on the first CPU, which may die of
 * it. It stays until the next line comes, so that nothing is freed in between.
 */

#include "ground.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define COMMANDS "/dev/ttyS1"

static bool load(const char *name, const char *parameters)
{
	char path[160];
	bool loaded;
	int fd;

	snprintf(path, sizeof(path), "/modules/%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	loaded = fd >= 0 && !syscall(SYS_finit_module, fd, parameters, 0);
	if (fd >= 0)
		close(fd);
	return loaded;
}

static bool obey(const char *line)
{
	char verb[16], name[128], text[128] = "";
	int words = sscanf(line, "%15s %127s %127[^\n]", verb, name, text);

	if (words == 3 && !strcmp(verb, "write"))
		return write_file(name, text);
	return words >= 2 && !strcmp(verb, "load") && load(name, text);
}

static void stay(const char *line)
{
	pin_to_cpu(0);
	report("done %d", !obey(line));
	for (;;)
		pause();
}

static pid_t child = -1;

static void child_gone(int signal)
{
	(void)signal;
	if (waitpid(child, NULL, WNOHANG) == child) {
		report("done died");
		child = -1;
	}
}

static void replace_child(const char *line)
{
	struct sigaction action = { .sa_handler = SIG_DFL };

	sigaction(SIGCHLD, &action, NULL);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	action.sa_handler = child_gone;
	action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
	sigaction(SIGCHLD, &action, NULL);
	child = fork();
	if (child == 0)
		stay(line);
}

static void set_up(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	prepare_ground();
	/* Who is killed by the kernel says so, and the others go on. */
	write_file("/proc/sys/kernel/panic_on_oops", "0");
	write_file("/proc/sys/kernel/printk", "8");
}

static FILE *open_commands(void)
{
	FILE *commands = fopen(COMMANDS, "re");
	struct termios modes;

	if (!commands || tcgetattr(fileno(commands), &modes))
		return NULL;
	modes.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(fileno(commands), TCSANOW, &modes);
	return commands;
}

int main(void)
{
	FILE *commands;
	char line[256];

	if (getpid() != 1)
		return 1;
	set_up();
	pin_to_cpu(0);
	commands = open_commands();
	if (!commands)
		report("failed to open " COMMANDS ": %m");
	else if (!load("breaker", ""))
		report("failed to load the module: %m");
	else
		report("cases");
	while (commands && fgets(line, sizeof(line), commands))
		replace_child(line);
	report("failed to read " COMMANDS);
	for (;;)
		pause();
}
