/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A program of the host's, run in here while the load goes on. */

#ifndef LIVE_H
#define LIVE_H

void run_live(const char *folder);

#endif
