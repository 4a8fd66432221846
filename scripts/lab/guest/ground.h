/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The guest's init: shared between its files. */

#ifndef GROUND_H
#define GROUND_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* init.c */
extern int num_cpus;

/* Tell the host one line; nothing is allocated for it. */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool write_file(const char *path, const char *text);
void pin_to_cpu(int cpu);
void sleep_ms(unsigned int ms);
uint64_t random_next(uint64_t *state);

/* residue.c: what stays allocated, in slabs of every state */
void leave_residue(void);
void thin_residue(void);

/* load.c: processes that allocate and free on all CPUs */
void start_load(void);
void stop_load(void);

/* live.c: a program of the host's, run in here */
void run_live(const char *folder);

/* oracle.c: what the kernel says of this moment, left in locked memory */
void prepare_oracle(void);
void take_oracle(void);

#endif
