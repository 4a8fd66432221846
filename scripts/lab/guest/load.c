// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * The load: processes on every CPU that allocate and free all the time, much
 * of it on another CPU than the one that allocated.
 */

#include "ground.h"
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORKERS 64
#define MESSAGE_SIZE 20000

static pid_t workers[MAX_WORKERS];
static int num_workers;

static void files_once(int number, uint64_t *seed)
{
	char name[64], value[2000];
	int fd;

	memset(value, 'y', sizeof(value));
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "/tmp/load-%d-%d", number, i);
		fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
		if (fd < 0)
			continue;
		if (write(fd, value, 1 + random_next(seed) % sizeof(value)) < 0)
			errno = 0;
		close(fd);
	}
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "/tmp/load-%d-%d", number, i);
		unlink(name);
	}
	/* Names that do not exist become negative dentries. */
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "/tmp/missing-%x", (unsigned int)random_next(seed) & 0xfff);
		access(name, F_OK);
	}
}

static void descriptors_once(void)
{
	int pairs[16][2], epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN };

	for (int i = 0; i < 16; i++) {
		int failed = i % 2 ? pipe2(pairs[i], O_CLOEXEC)
				   : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]);

		if (failed)
			pairs[i][0] = pairs[i][1] = -1;
		epoll_ctl(epoll, EPOLL_CTL_ADD, pairs[i][0], &event);
	}
	for (int i = 0; i < 16; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
	close(epoll);
	close(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static void mappings_once(void)
{
	for (int i = 0; i < 10; i++) {
		char *memory = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			continue;
		memory[0] = memory[40 << 10] = 1;
		mprotect(memory + (16 << 10), 16 << 10, PROT_READ);
		munmap(memory, 64 << 10);
	}
}

static void child_once(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void __attribute__((noreturn)) mixed_worker(int number)
{
	uint64_t seed = 0x2545f4914f6cdd1d * (uint64_t)(number + 1);

	for (;;) {
		files_once(number, &seed);
		descriptors_once();
		mappings_once();
		if (number % 2)
			child_once();
	}
}

static void __attribute__((noreturn)) sender(int fd, int number)
{
	static char message[MESSAGE_SIZE];
	uint64_t seed = 0x6c62272e07bb0142 * (uint64_t)(number + 1);

	for (;;)
		if (send(fd, message, 1 + random_next(&seed) % sizeof(message), 0) < 0)
			_exit(0);
}

static void __attribute__((noreturn)) receiver(int fd)
{
	static char message[MESSAGE_SIZE];

	/* What was allocated on the sender's CPU is freed on this one. */
	while (recv(fd, message, sizeof(message), 0) > 0)
		;
	_exit(0);
}

static bool start_worker(int cpu)
{
	pid_t pid = fork();

	if (pid == 0) {
		pin_to_cpu(cpu);
		return true;
	}
	if (pid > 0 && num_workers < MAX_WORKERS)
		workers[num_workers++] = pid;
	return false;
}

void start_load(void)
{
	for (int cpu = 0; cpu < num_cpus; cpu++) {
		int pair[2];

		if (start_worker(cpu))
			mixed_worker(cpu);
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
			continue;
		if (start_worker(cpu))
			sender(pair[0], cpu);
		if (start_worker((cpu + 1) % num_cpus))
			receiver(pair[1]);
		close(pair[0]);
		close(pair[1]);
	}
}

void stop_load(void)
{
	for (int i = 0; i < num_workers; i++)
		kill(workers[i], SIGKILL);
	for (int i = 0; i < num_workers; i++)
		waitpid(workers[i], NULL, 0);
}
