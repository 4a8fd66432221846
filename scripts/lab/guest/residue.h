/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What stays allocated, in slabs of every state. */

#ifndef RESIDUE_H
#define RESIDUE_H

void leave_residue(void);
void thin_residue(void);

#endif
