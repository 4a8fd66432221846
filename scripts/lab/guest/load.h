/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes that allocate and free on all CPUs. */

#ifndef LOAD_H
#define LOAD_H

void start_load(void);
void stop_load(void);

#endif
