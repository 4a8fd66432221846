# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_slabtype``, the same as the ``drgn-slabtype`` script."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
