/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the kernel says of this moment, left in locked memory. */

#ifndef ORACLE_H
#define ORACLE_H

void prepare_oracle(void);
void take_oracle(void);

#endif
