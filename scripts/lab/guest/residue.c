// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * Objects that stay: many of many caches, then a part of them freed again, so
 * that slabs are full, partial and empty, and pages have every type.
 */

#include "ground.h"
#include "residue.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define NUM_FILES 3000
#define NUM_FDS 900
#define NUM_CHILDREN 24
#define HUGE_SIZE (2UL << 20)

static int kept_fds[NUM_FDS];
static int num_kept_fds;
static pid_t children[NUM_CHILDREN];
static uint64_t seed = 0x9e3779b97f4a7c15;

static void keep_fd(int fd)
{
	if (fd < 0)
		return;
	if (num_kept_fds < NUM_FDS)
		kept_fds[num_kept_fds++] = fd;
	else
		close(fd);
}

static void file_name(char *name, size_t size, int number)
{
	/* Every third name is too long for the one inside a dentry. */
	snprintf(name, size, "/tmp/files/%d%s", number,
		 number % 3 ? "" : "-with-a-name-that-is-allocated-separately-as-it-is-so-long");
}

static void make_files(void)
{
	char name[128], value[3000];

	mkdir("/tmp/files", 0755);
	memset(value, 'x', sizeof(value));
	for (int i = 0; i < NUM_FILES; i++) {
		int fd;

		file_name(name, sizeof(name), i);
		fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
		if (fd < 0)
			continue;
		if (i % 8 == 0) {
			ssize_t written = write(fd, value, 1 + random_next(&seed) % sizeof(value));
			(void)written;
		}
		if (i % 16 == 0)
			fsetxattr(fd, "trusted.lab", value, 1 + random_next(&seed) % sizeof(value), 0);
		if (i % 10 == 0)
			keep_fd(fd);
		else
			close(fd);
		if (i % 20 == 0) {
			char link[160];

			snprintf(link, sizeof(link), "%s.link", name);
			if (symlink(name, link))
				break;
		}
	}
}

static void make_descriptors(void)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC), watch = inotify_init1(IN_CLOEXEC);
	static char message[30000];

	for (int i = 0; i < 60; i++) {
		struct epoll_event event = { .events = EPOLLIN };
		int pair[2], fd;

		if (!pipe2(pair, O_CLOEXEC)) {
			/* A big ring of pipe buffers is a large kmalloc. */
			if (i % 6 == 0)
				fcntl(pair[0], F_SETPIPE_SZ, i % 12 ? 1 << 18 : 1 << 20);
			ssize_t written = write(pair[1], message, 100);
			(void)written;
			epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event);
			keep_fd(pair[0]);
			keep_fd(pair[1]);
		}
		if (!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
			for (int j = 0; j < 4; j++)
				if (send(pair[0], message, 1 + random_next(&seed) % sizeof(message), 0) < 0)
					break;
			keep_fd(pair[0]);
			keep_fd(pair[1]);
		}
		fd = eventfd(0, EFD_CLOEXEC);
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		keep_fd(fd);
		keep_fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
		keep_fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		keep_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	}
	for (int i = 0; i < 200; i++) {
		char name[128];

		file_name(name, sizeof(name), i * 7);
		inotify_add_watch(watch, name, IN_MODIFY);
	}
	keep_fd(epoll);
	keep_fd(watch);
}

static void make_sysv_objects(void)
{
	struct {
		long type;
		char text[8000];
	} message = { .type = 1 };

	for (int i = 0; i < 12; i++) {
		int queue = msgget(IPC_PRIVATE, 0600);

		semget(IPC_PRIVATE, 1 + i * 10, 0600);
		for (int j = 0; j < 8; j++)
			if (msgsnd(queue, &message, 1 + random_next(&seed) % 1800, IPC_NOWAIT))
				break;
		void *memory = shmat(shmget(IPC_PRIVATE, 64 << 10, 0600), NULL, 0);
		if (memory != (void *)-1)
			memset(memory, 1, 64 << 10);
	}
}

static void make_mappings(void)
{
	size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
	char *memory;

	/* Areas that cannot be merged. */
	memory = mmap(NULL, 600 * page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory != MAP_FAILED)
		for (int i = 0; i < 600; i += 2)
			mprotect(memory + i * page_size, page_size, PROT_NONE);
	/* A page table for each page. */
	memory = mmap(NULL, 96 * HUGE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory != MAP_FAILED) {
		madvise(memory, 96 * HUGE_SIZE, MADV_NOHUGEPAGE);
		for (int i = 0; i < 96; i++)
			memory[i * HUGE_SIZE] = 1;
	}
	memory = mmap(NULL, 3 * HUGE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (memory != MAP_FAILED)
		memset(memory, 1, 3 * HUGE_SIZE);
	memory = mmap(NULL, 5 * HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory != MAP_FAILED) {
		madvise(memory, 5 * HUGE_SIZE, MADV_HUGEPAGE);
		memset(memory, 1, 5 * HUGE_SIZE);
	}
}

static void poison_page(void)
{
	size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
	pid_t pid = fork();

	/* Newer kernels send SIGBUS to whoever asks for it. */
	if (pid == 0) {
		char *memory = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (memory != MAP_FAILED)
			madvise(memory, page_size, MADV_HWPOISON);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void make_children(void)
{
	for (int i = 0; i < NUM_CHILDREN; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			pin_to_cpu(i % num_cpus);
			for (;;)
				pause();
		}
	}
}

void leave_residue(void)
{
	make_mappings();
	poison_page();
	make_files();
	make_descriptors();
	make_sysv_objects();
	make_children();
}

void thin_residue(void)
{
	char name[128];

	/* Two of three go, seen from every CPU in turn. */
	for (int i = 0; i < NUM_FILES; i++) {
		if (i % 200 == 0)
			pin_to_cpu(i / 200 % num_cpus);
		if (random_next(&seed) % 3) {
			file_name(name, sizeof(name), i);
			unlink(name);
		}
	}
	for (int i = 0; i < num_kept_fds; i++)
		if (random_next(&seed) % 3 == 0)
			close(kept_fds[i]);
	for (int i = 0; i < NUM_CHILDREN; i += 2) {
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
	}
	pin_to_cpu(0);
}
