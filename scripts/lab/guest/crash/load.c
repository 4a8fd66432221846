// SPDX-License-Identifier: LGPL-2.1-or-later

/*
 * Started as init: has the kernel load a crash kernel, out of the initramfs, and
 * becomes the ordinary program. What was loaded is in memory of its own.
 */

#include "../ground.h"

#include <fcntl.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEXT "/base"
#define KERNEL "/crash/vmlinuz"
#define INITRAMFS "/crash/initramfs"
#define COMMAND_LINE \
	"console=ttyS0 nr_cpus=1 reset_devices irqpoll no_timer_check panic=-1"

int main(int argc, char **argv)
{
	int kernel = open(KERNEL, O_RDONLY | O_CLOEXEC);
	int initramfs = open(INITRAMFS, O_RDONLY | O_CLOEXEC);

	(void)argc;
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	prepare_ground();
	if (syscall(SYS_kexec_file_load, kernel, initramfs, sizeof(COMMAND_LINE), COMMAND_LINE,
		    KEXEC_FILE_ON_CRASH))
		report("failed to load the crash kernel: %m");
	close(kernel);
	close(initramfs);
	unlink(KERNEL);
	unlink(INITRAMFS);
	umount("/dev");
	umount("/proc");
	argv[0] = NEXT;
	execv(NEXT, argv);
	report("failed to go on: %m");
	return 1;
}
