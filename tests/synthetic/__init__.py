# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Programs made up for tests: no kernel, no dump, no debug info file.

:func:`make_kernel` builds one program for each known layout, with the types
that tell layouts apart, VMCOREINFO, and a small memory map to write into:

    kernel = make_kernel("6.1-slab-rfc-v3")
    kernel.write_page(3, word=0xFFEFFFFA)
    PageSlab(kernel.page(3))
"""

from .kernel import Kernel, make_kernel
from .specs import SPECS, Spec
from .types import Types

__all__ = ("SPECS", "Kernel", "Spec", "Types", "make_kernel")
