# SPDX-License-Identifier: LGPL-2.1-or-later

"""The table of architectures: what to compile, boot and talk to a guest of each with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from .named import Named

__all__ = ("ARCHITECTURES", "HERE", "Architecture")

HERE = "amd64"
"""The one that the lab itself runs on, and all of whose guests and trials there are."""


@dataclass(frozen=True)
class Architecture:
    """How Debian's kernels of one architecture are booted."""

    name: str
    """Debian's word for it."""
    emulator: str
    """The program that runs guests."""
    packages: Tuple[str, ...]
    """Debian packages with the emulator and the compiler."""
    compiler: str
    """The compiler for programs of a guest."""
    machine: Tuple[str, ...]
    """Options of the emulator for the machine and what it has; the console is its
    character device ``console``, and the guest's lines go to ``lines``."""
    processor: Tuple[str, ...]
    """Options of the emulator for its processors."""
    console: str
    """What the kernel calls the console."""
    lines: str = ""
    """The device that the guest's program writes lines to; empty for a port of a PC's."""
    tells: bool = True
    """Whether VMCOREINFO reaches QEMU, as the guest has its device for that."""
    order: str = "<"
    """Byte order of its kernels, as :mod:`struct` spells it."""
    guests: Tuple[str, ...] = ()
    """Guests that say something about its kernels; empty for all."""
    image: str = ""
    """What a kernel built here is booted from, in its object tree; empty if none is built."""
    make: Tuple[str, ...] = ()
    """Arguments of the kernel's own make."""
    recent: Tuple[str, ...] = ()
    """Debian packages with an emulator newer than the installed one."""


_CROSS = ("plain", "debug", "kfence", "nomerge", "busy", "busy-debug", "busy-kfence")
_PCI_LINES = ("-device", "pci-serial,chardev=lines")
_PCI_BALLOON = ("-device", "virtio-balloon-pci,id=balloon")
_SERIAL = ("-serial", "chardev:console")

ARCHITECTURES: Named[Architecture] = Named(
    "architecture",
    (
        Architecture(
            HERE,
            "qemu-system-x86_64",
            ("gcc", "libc6-dev", "qemu-system-x86"),
            "gcc",
            (
                *("-M", "q35", "-device", "vmcoreinfo"),
                *(*_PCI_BALLOON, *_SERIAL),
                *("-device", "isa-debugcon,iobase=0xe9,chardev=lines"),
            ),
            (),
            "ttyS0",
            image="arch/x86/boot/bzImage",
            recent=("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"),
        ),
        Architecture(
            "arm64",
            "qemu-system-aarch64",
            ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-system-arm"),
            "aarch64-linux-gnu-gcc",
            ("-M", "virt", "-device", "vmcoreinfo", *_PCI_BALLOON, *_SERIAL, *_PCI_LINES),
            # Pages of 16 KiB and addresses of 52 bits take more than a Cortex has; QEMU 7.2
            # writes a core with wrong offsets if there are registers of SVE.
            ("-cpu", "max,pauth-impdef=on,sve=off,sme=off"),
            "ttyAMA0",
            lines="/dev/ttyS0",
            guests=(*_CROSS, "numa", "busy-numa"),
            image="arch/arm64/boot/Image",
            make=("ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"),
            recent=("qemu-system-arm", "qemu-system-common", "qemu-system-data"),
        ),
        Architecture(
            "s390x",
            "qemu-system-s390x",
            ("gcc-s390x-linux-gnu", "libc6-dev-s390x-cross", "qemu-system-misc"),
            "s390x-linux-gnu-gcc",
            (
                *("-M", "s390-ccw-virtio", "-device", "virtio-balloon-ccw,id=balloon"),
                *("-device", "sclpconsole,chardev=console"),
                *("-device", "sclplmconsole,chardev=lines"),
            ),
            ("-cpu", "max"),
            "ttysclp0",
            lines="/dev/sclp_line0",
            tells=False,
            order=">",
            guests=_CROSS,
        ),
        Architecture(
            "riscv64",
            "qemu-system-riscv64",
            ("gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross", "qemu-system-misc"),
            "riscv64-linux-gnu-gcc",
            ("-M", "virt", *_PCI_BALLOON, *_SERIAL, *_PCI_LINES),
            (),
            "ttyS0",
            lines="/dev/ttyS1",
            # Its fw_cfg has no DMA, which -device vmcoreinfo needs.
            tells=False,
            guests=_CROSS,
        ),
        Architecture(
            "ppc64el",
            "qemu-system-ppc64",
            ("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross", "qemu-system-ppc"),
            "powerpc64le-linux-gnu-gcc",
            (
                # QEMU 7.2 writes its cores with big-endian headers, see files/turned.py.
                *("-M", "pseries", *_PCI_BALLOON),
                # Interrupts of terminals follow from the digit before the last three.
                *("-device", "spapr-vty,chardev=console,reg=0x30000000"),
                *("-device", "spapr-vty,chardev=lines,reg=0x30001000"),
            ),
            (),
            "hvc0",
            lines="/dev/hvc1",
            tells=False,
            # slub_debug takes more memory than they have, with pages of 64 KiB.
            guests=tuple(name for name in _CROSS if "debug" not in name),
        ),
    ),
)
"""Every architecture by Debian's name."""
