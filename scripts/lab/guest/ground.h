/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The ground that the guest's other files stand on; included before all else. */

#ifndef GROUND_H
#define GROUND_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern int num_cpus;
extern size_t page_bytes;

/* Before all else in here; needs /dev and /proc. */
void prepare_ground(void);

/* Tell the host one line; nothing is allocated for it. */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool write_file(const char *path, const char *text);
bool text_option(const char *name, char *value, size_t size);
void pin_to_cpu(int cpu);
void relax_cpu(void);
void sleep_ms(unsigned int ms);
uint64_t random_next(uint64_t *state);

#endif
