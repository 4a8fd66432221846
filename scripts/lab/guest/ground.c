// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * What every part of the guest needs: a line to the host, CPUs, time, chance.
 * Whatever differs from one architecture to the next is here too: a PC has a port
 * for the line, other machines a terminal that lab.lines= names.
 */

#include "ground.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#ifdef __x86_64__
#include <sys/io.h>

#define HOST_PORT 0xe9
#endif

int num_cpus;
size_t page_bytes;

static int line_fd = -1;

#ifdef __x86_64__
static void open_line(void)
{
	/* Some kernels are built with only one of the two. */
	if (ioperm(HOST_PORT, 1, 1))
		line_fd = open("/dev/port", O_RDWR | O_CLOEXEC);
}

static void write_line(const char *line, int length)
{
	for (int i = 0; i < length; i++)
		if (line_fd < 0)
			outb((unsigned char)line[i], HOST_PORT);
		else if (pwrite(line_fd, line + i, 1, HOST_PORT) != 1)
			return;
}
#else
static void open_line(void)
{
	char path[64] = "/dev/console";
	struct termios settings;

	text_option("lab.lines=", path, sizeof(path));
	line_fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (line_fd >= 0 && !tcgetattr(line_fd, &settings)) {
		cfmakeraw(&settings);
		tcsetattr(line_fd, TCSANOW, &settings);
	}
}

static void write_line(const char *line, int length)
{
	while (length > 0) {
		ssize_t written = write(line_fd, line, (size_t)length);

		if (written <= 0)
			return;
		line += written;
		length -= (int)written;
	}
	/* Where a terminal ends a line only as the next one begins (s390x), let one begin. */
	if (write(line_fd, "\n", 1) != 1)
		return;
}
#endif

void prepare_ground(void)
{
	num_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	open_line();
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
	write_line(line, length);
}

bool text_option(const char *name, char *value, size_t size)
{
	char line[4096], format[32];
	const char *found;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	if (length < 0)
		return false;
	line[length] = 0;
	found = strstr(line, name);
	snprintf(format, sizeof(format), "%%%zu[^ \n]", size - 1);
	return found && sscanf(found + strlen(name), format, value) == 1;
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
#ifdef __x86_64__
	__builtin_ia32_pause();
#else
	__asm__ volatile("" ::: "memory");
#endif
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
