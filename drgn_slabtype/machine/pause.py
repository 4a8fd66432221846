# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest that stands still
-------------------------

A guest that QEMU's monitor has stopped is no moving target: its memory is read
once, and its CPUs' registers lead to their stacks. That lasts until somebody
lets it go on, which the monitor tells every client.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
from typing import TYPE_CHECKING, Dict, Mapping, Optional

from drgn import Object

from .tasks import ERRORS

if TYPE_CHECKING:
    from . import Machine

_SECONDS = 10
_MOST_ANSWER_BYTES = 1 << 22
# What QEMU calls states in which no CPU runs and memory does not change either.
_STILL = frozenset(
    "paused debug guest-panicked internal-error io-error postmigrate shutdown watchdog".split()
)
_CPU = re.compile(r"^CPU#(\d+)", re.MULTILINE)
_REGISTER = re.compile(r"\b([A-Z][A-Z0-9]{1,2}) *=([0-9a-fA-F]{16})\b")
_FLAGS = re.compile(r"\bRFL=([0-9a-fA-F]{8,16})\b")
_SEGMENT = re.compile(r"^(CS|SS|GS) *=([0-9a-fA-F]{4}) ([0-9a-fA-F]{16})", re.MULTILINE)
_PT_REGS = {
    "ip": "RIP",
    "sp": "RSP",
    "bp": "RBP",
    "ax": "RAX",
    "bx": "RBX",
    "cx": "RCX",
    "dx": "RDX",
    "si": "RSI",
    "di": "RDI",
    **{f"r{number}": f"R{number}" for number in range(8, 16)},
    "flags": "RFL",
}

Registers = Mapping[str, int]
"""
Registers of a CPU by QEMU's names; ``GS`` is where that segment begins, ``CS`` and ``SS``
are selectors.
"""


def parse_registers(text: str) -> Dict[int, Registers]:
    """
    Return what QEMU's ``info registers -a`` says of CPUs of x86-64, by QEMU's numbers.

    >>> parse_registers("CPU#0\\nRAX=0000000000000001 RBX=...\\n")[0]["RAX"]
    1

    :param text: Without a CPU whose instruction and stack pointer are told there is none.
    """
    found: Dict[int, Registers] = {}
    starts = [*_CPU.finditer(text)]
    for match, end in zip(starts, [*(one.start() for one in starts[1:]), len(text)]):
        part = text[match.end() : end]
        registers = {name: int(value, 16) for name, value in _REGISTER.findall(part)}
        registers.update(("RFL", int(value, 16)) for value in _FLAGS.findall(part))
        for name, selector, base in _SEGMENT.findall(part):
            registers[name] = int(base if name == "GS" else selector, 16)
        if {"RIP", "RSP"} <= registers.keys():
            found[int(match[1])] = registers
    return found


class Pause:
    """
    A guest that was stopped when its program was opened.

    :param connection: A copy of the descriptor that drgn speaks to QEMU's monitor
        with; nothing but events of the monitor is read from it.
    :param registers: Of its CPUs, by QEMU's numbers.
    """

    def __init__(
        self, connection: socket.socket, registers: Optional[Mapping[int, Registers]] = None
    ) -> None:
        self._connection = connection
        self._over = False
        self.registers = dict(registers or {})

    @property
    def holds(self) -> bool:
        """Whether nobody has let the guest go on meanwhile."""
        if not self._over:
            try:
                events = self._connection.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                events = b""
            # Without a monitor nobody tells.
            self._over = not events or b'"RESUME"' in events
        return not self._over

    def close(self) -> None:
        """Close the connection; the pause counts as over."""
        self._over = True
        self._connection.close()

    def of(self, machine: Machine, cpu: int) -> Optional[Object]:
        """
        Return the registers of a CPU.

        :param cpu: As the kernel numbers it.
        :return: ``struct pt_regs``; ``None`` if they are not known.
        """
        registers = self._registers(machine, cpu)
        if registers is None:
            return None
        kind = machine.prog.type("struct pt_regs")
        layout = machine.structure("struct pt_regs")
        data = bytearray(kind.size or 0)
        for member, name in [*_PT_REGS.items(), ("cs", "CS"), ("ss", "SS")]:
            if name not in registers:
                continue
            try:
                at = layout.offset(member)
            except ERRORS:
                continue
            struct.pack_into("<H" if name in ("CS", "SS") else "<Q", data, at, registers[name])
        return Object.from_bytes_(machine.prog, kind, bytes(data))

    def _registers(self, machine: Machine, cpu: int) -> Optional[Registers]:
        # In the kernel, the segment GS begins where the CPU's own memory does.
        own = dict(zip(machine.cpus.tolist(), machine.cpu_offsets.tolist())).get(cpu)
        for registers in self.registers.values():
            if own is not None and registers.get("GS") == own:
                return registers
        # QEMU and the kernel number CPUs alike, as in a dump.
        return self.registers.get(cpu)


def ask(connection: socket.socket) -> Optional[Pause]:
    """
    Ask a monitor whether its guest stands still, and for its registers.

    :param connection: One that drgn speaks to the monitor with, and uses no other way
        meanwhile.
    :return: ``None`` if it does not, or if nobody would tell that it goes on.
    """
    if not _is_read_beside(connection):
        return None
    copy = connection.dup()
    try:
        state = _execute(copy, "query-status")
        if not isinstance(state, dict) or state.get("status") not in _STILL:
            copy.close()
            return None
        told = _execute(copy, "human-monitor-command", {"command-line": "info registers -a"})
    except (OSError, ValueError):
        copy.close()
        return None
    return Pause(copy, parse_registers(told) if isinstance(told, str) else {})


def _is_read_beside(connection: socket.socket) -> bool:
    # drgn reads the memory of a QEMU process of this machine if it may, and leaves
    # the monitor alone; else it reads through it, and with that past its events.
    if connection.family != socket.AF_UNIX:
        return False
    try:
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, _, _ = struct.unpack("=iII", peer)
        with open(f"/proc/{pid}/mem", "rb"):
            return True
    except OSError:
        return False


def _execute(
    connection: socket.socket, command: str, arguments: Optional[Mapping[str, str]] = None
) -> object:
    request: Dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    connection.sendall(json.dumps(request).encode() + b"\r\n")
    pending = b""
    while len(pending) < _MOST_ANSWER_BYTES:
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            message = json.loads(line)
            if "return" in message:
                answer: object = message["return"]
                return answer
            if "error" in message:
                raise ValueError(command)
        # A timeout of the socket would be one of drgn's, too: they share it.
        if not select.select([connection], [], [], _SECONDS)[0]:
            break
        data = connection.recv(1 << 16)
        if not data:
            break
        pending += data
    raise ValueError(command)
