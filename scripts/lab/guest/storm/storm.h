// SPDX-License-Identifier: LGPL-2.1-or-later

/* What the parts of the storm have in common, and the parts: one turn each. */

#ifndef STORM_H
#define STORM_H

/* The next number below another, of a sequence. */
unsigned int chance(unsigned int *state, unsigned int below);
/* Do something in a process of its own, and wait for it. */
void in_a_child(void (*work)(unsigned int seed), unsigned int seed);

void raise_loopback(void);
void names_once(unsigned int seed);
void sockets_once(unsigned int seed);
void processes_once(unsigned int seed);
void queues_once(unsigned int seed);
void groups_once(unsigned int seed);
void pressure_once(unsigned int seed);
void kernel_once(unsigned int seed);

/* Run the program that the host has put in, if it has, and report what it writes. */
void run_inside(void);

#endif
