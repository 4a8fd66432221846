// SPDX-License-Identifier: LGPL-2.1-or-later

/* The storm's own parts: names, sockets, processes, queues. */

#define _GNU_SOURCE
#include "../ground.h"
#include "storm.h"

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MANY 48
#define LONG "-a-name-that-is-so-long-that-it-cannot-stand-inside-of-its-dentry"

void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		request.ifr_flags = 0;
	close(fd);
}

static void walk(const char *path, int depth)
{
	char inner[512], text[256];
	struct dirent *entry;
	DIR *folder = opendir(path);
	int left = 60;

	while (folder && left-- && (entry = readdir(folder))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR && depth) {
			walk(inner, depth - 1);
		} else if (entry->d_type == DT_REG) {
			int fd = open(inner, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
			ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof(text));

			(void)got;
			if (fd >= 0)
				close(fd);
		}
	}
	if (folder)
		closedir(folder);
}

void names_once(unsigned int seed)
{
	char name[200], other[200], folder[64];

	snprintf(folder, sizeof(folder), "/tmp/storm-%u", seed % 4);
	mkdir(folder, 0755);
	for (int i = 0; i < MANY; i++) {
		int fd;

		/* Names of many lengths, most of them with memory of their own. */
		snprintf(name, sizeof(name), "%s/%d%.*s", folder, i, (int)chance(&seed, 64), LONG);
		snprintf(other, sizeof(other), "%s/other-%d", folder, i);
		fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
		if (fd < 0)
			continue;
		if (ftruncate(fd, 1 << 20) ||
		    pwrite(fd, name, sizeof(name), chance(&seed, 1 << 20)) < 0)
			sleep_ms(1);
		flock(fd, LOCK_SH);
		if (i % 4 == 0) {
			struct flock lock = { .l_type = F_WRLCK, .l_start = i, .l_len = 1 };

			fcntl(fd, F_SETLK, &lock);
		}
		close(fd);
		if (i % 3 == 0 && symlink(name, other))
			unlink(other);
		else if (rename(name, other))
			unlink(name);
	}
	walk(folder, 1);
	for (int i = 0; i < MANY; i++) {
		snprintf(other, sizeof(other), "%s/other-%d", folder, i);
		unlink(other);
	}
	walk("/proc/self", 1);
	walk(seed % 8 ? "/proc/sys/kernel" : "/sys/kernel", 2);
	mkdir("/tmp/mounted", 0755);
	if (!mount("storm", "/tmp/mounted", "tmpfs", 0, "size=1m")) {
		mkdir("/tmp/mounted/one", 0755);
		umount2("/tmp/mounted", MNT_DETACH);
	}
}

static void pass(int from, int fd)
{
	char byte = 1;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control.bytes) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	if (sendmsg(from, &message, MSG_DONTWAIT) < 0)
		return;
}

static void datagrams(unsigned int seed)
{
	static char message[4000];
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int in = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (!bind(in, (struct sockaddr *)&address, sizeof(address)) &&
	    !getsockname(in, (struct sockaddr *)&address, &size))
		for (int i = 0; i < MANY; i++) {
			sendto(out, message, 1 + chance(&seed, sizeof(message)), MSG_DONTWAIT,
			       (struct sockaddr *)&address, size);
			if (i % 3)
				recv(in, message, sizeof(message), MSG_DONTWAIT);
		}
	close(in);
	close(out);
}

static void stream(unsigned int seed)
{
	static char message[16000];
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), other;

	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4) ||
	    getsockname(listener, (struct sockaddr *)&address, &size))
		goto out;
	connect(one, (struct sockaddr *)&address, size);
	other = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	for (int i = 0; i < 8; i++) {
		send(one, message, 1 + chance(&seed, sizeof(message)), MSG_NOSIGNAL);
		recv(other, message, sizeof(message), 0);
	}
	if (other >= 0)
		close(other);
out:
	close(one);
	close(listener);
}

void sockets_once(unsigned int seed)
{
	int pair[2], pipes[2];

	datagrams(seed);
	stream(seed);
	for (int i = 0; i < 8; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			continue;
		for (int j = 0; j < 4; j++)
			pass(pair[0], pair[1]);
		close(pair[0]);
		close(pair[1]);
	}
	close(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
	close(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
	close(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
	if (!pipe2(pipes, O_CLOEXEC | O_NONBLOCK)) {
		fcntl(pipes[0], F_SETPIPE_SZ, 4096 << chance(&seed, 7));
		for (int i = 0; i < 8; i++)
			if (write(pipes[1], pair, sizeof(pair)) < 0)
				break;
		close(pipes[0]);
		close(pipes[1]);
	}
	close(signalfd(-1, &(sigset_t){ 0 }, SFD_CLOEXEC));
	close(inotify_init1(IN_CLOEXEC));
	close(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	close(eventfd(0, EFD_CLOEXEC));
}

static void deeper(unsigned int seed)
{
	char *again[] = { "/init", "again", NULL };
	timer_t timer;

	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	if (seed % 3 == 0)
		for (int i = 0; i < 20; i++)
			if (!fork()) {
				sleep_ms(chance(&seed, 4));
				_exit(0);
			}
	/* Children that nobody waits for are left to init. */
	if (seed % 3 == 1)
		execv(again[0], again);
}

static void namespaces(unsigned int seed)
{
	static const int kinds[] = { CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER,
				     CLONE_NEWPID, CLONE_NEWNET };

	/* A network of its own takes long. */
	if (!unshare(kinds[chance(&seed, seed % 16 ? 5 : 6)]))
		deeper(seed);
}

void processes_once(unsigned int seed)
{
	in_a_child(deeper, seed);
	if (seed % 4 == 0)
		in_a_child(namespaces, seed);
}

void queues_once(unsigned int seed)
{
	struct {
		long type;
		char text[4000];
	} message = { .type = 1 };
	int queue = msgget(IPC_PRIVATE, 0600), sems = semget(IPC_PRIVATE, 1 + seed % 200, 0600);
	int shared = shmget(IPC_PRIVATE, 64 << 10, 0600);
	void *memory = shmat(shared, NULL, 0);

	for (int i = 0; i < MANY; i++) {
		if (msgsnd(queue, &message, 1 + chance(&seed, sizeof(message.text)), IPC_NOWAIT))
			break;
		if (i % 4 == 3 && msgrcv(queue, &message, sizeof(message.text), 0, IPC_NOWAIT) < 0)
			break;
	}
	if (memory != (void *)-1) {
		memset(memory, 1, 64 << 10);
		shmdt(memory);
	}
	shmctl(shared, IPC_RMID, NULL);
	semctl(sems, 0, IPC_RMID);
	msgctl(queue, IPC_RMID, NULL);
	for (int i = 0; i < MANY; i++) {
		char *area = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			break;
		for (int j = 0; j < 16; j++) {
			area[j << 16] = 1;
			mprotect(area + (j << 16), 4096, PROT_READ);
		}
		munmap(area, 1 << 20);
	}
}
