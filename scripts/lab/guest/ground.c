// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * What every part of the guest needs: a line to the host, CPUs, time, chance.
 * Whatever only x86-64 has is here too.
 */

#include "ground.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <time.h>
#include <unistd.h>

#define HOST_PORT 0xe9

int num_cpus;

static int port_fd = -1;

void prepare_ground(void)
{
	/* Some kernels are built with only one of the two. */
	if (ioperm(HOST_PORT, 1, 1))
		port_fd = open("/dev/port", O_RDWR | O_CLOEXEC);
	num_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
}

void report(const char *format, ...)
{
	char line[256];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	for (int i = 0; i < length; i++)
		if (port_fd < 0)
			outb((unsigned char)line[i], HOST_PORT);
		else if (pwrite(port_fd, line + i, 1, HOST_PORT) != 1)
			return;
}

bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool written;

	if (fd < 0)
		return false;
	written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return written;
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

void relax_cpu(void)
{
	__builtin_ia32_pause();
}

void sleep_ms(unsigned int ms)
{
	struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };

	while (nanosleep(&time, &time))
		;
}

uint64_t random_next(uint64_t *state)
{
	/* xorshift64: the same sequence in every run of a guest. */
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}
