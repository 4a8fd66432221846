# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Functions of a stopped guest, called from outside over QEMU's gdb stub.

A CPU is stopped where it enters a function, sent through another one and put
back. Registers and memory are those of x86-64.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import Iterator, List, Optional

from .errors import GuestError
from .qemu import connect

__all__ = ("Caller", "GdbStub", "entered")

_RDI, _RSI, _RSP, _RIP, _EFLAGS = 5, 4, 7, 16, 17
_REGISTERS = struct.Struct("<17QI")  # rax to r15, rip, eflags; more follow
_INTERRUPTS = 1 << 9
_MET = "T05"  # SIGTRAP
_STACK_GAP = 256  # bytes left alone below the stack pointer


class _NoAnswer(GuestError):
    pass


class GdbStub:
    """
    A client of gdb's remote protocol; connecting stops the guest.

    :param path: The stub's socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = connect(path)
        self._pending = b""
        self.command("qSupported:multiprocess+;vContSupported+", 10)
        # Single registers can be written once their description has been read.
        self.command("qXfer:features:read:target.xml:0,fff", 10)

    def close(self) -> None:
        """End the connection; the guest stays stopped."""
        self._socket.close()

    def _byte(self, deadline: float) -> bytes:
        while not self._pending:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self._pending = self._socket.recv(1 << 16)
            except socket.timeout:
                raise _NoAnswer("the guest does not stop for the debugger") from None
            if not self._pending:
                raise GuestError("QEMU has ended the debugger's connection")
        byte, self._pending = self._pending[:1], self._pending[1:]
        return byte

    def command(self, text: str, seconds: float) -> str:
        """
        Send a packet and return the answer.

        :raises GuestError: if there is none in time, or the stub reports an error.
        """
        self._send(text)
        answer = self._answer(seconds)
        if not answer or (answer.startswith("E") and len(answer) == 3):
            raise GuestError(f"QEMU's debugger: {text[:20]}: {answer or 'unknown'}")
        return answer

    def _send(self, text: str) -> None:
        data = text.encode("ascii")
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _answer(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while self._byte(deadline) != b"$":
            pass  # the acknowledgement
        body = bytearray()
        while (byte := self._byte(deadline)) != b"#":
            body += byte
        self._byte(deadline)
        self._byte(deadline)
        self._socket.sendall(b"+")
        return body.decode("ascii", "replace")

    def read(self, address: int, size: int) -> bytes:
        """Read the guest's memory as the stopped CPU sees it."""
        return bytes.fromhex(self.command(f"m{address:x},{size:x}", 10))

    def write(self, address: int, data: bytes) -> None:
        """Write to the guest's memory."""
        self.command(f"M{address:x},{len(data):x}:{data.hex()}", 10)

    def registers(self) -> List[int]:
        """Return the general registers in the order of gdb: rax to r15, rip, eflags."""
        text = self.command("g", 10)
        return list(_REGISTERS.unpack(bytes.fromhex(text)[: _REGISTERS.size]))

    def set_register(self, number: int, value: int) -> None:
        """Set one general register, numbered as in :meth:`registers`."""
        size = 4 if number == _EFLAGS else 8
        self.command(f"P{number:x}={value.to_bytes(size, 'little').hex()}", 10)

    def breakpoint(self, address: int, *, on: bool) -> None:
        """Set or remove a hardware breakpoint, which every CPU stops at."""
        self.command(f"{'Z' if on else 'z'}1,{address:x},1", 10)

    def resume(self, seconds: float, thread: str = "") -> str:
        """
        Let one CPU go on, or all, until the guest stops.

        :return: The CPU that stopped it, as the stub names it.
        :raises GuestError: if it does not stop in time.
        """
        only = f":{thread}" if thread else ""
        return _stopped_by(self.command(f"vCont;c{only}", seconds))

    def run(self, seconds: float) -> Optional[str]:
        """
        Let all CPUs go on until a breakpoint is met, or time is up.

        :return: The CPU that met it, as the stub names it; ``None`` if none did.
        :raises GuestError: if the guest does not stop at all.
        """
        self._send("vCont;c")
        try:
            answer = self._answer(seconds)
        except _NoAnswer:
            self._socket.sendall(b"\x03")
            answer = self._answer(10)
        return _stopped_by(answer) if answer.startswith(_MET) else None

    def step(self, thread: str) -> None:
        """Let a CPU execute one instruction; the others stand still, and interrupts wait."""
        self.command(f"vCont;s:{thread}", 10)


def _stopped_by(answer: str) -> str:
    for part in answer[3:].split(";"):
        if part.startswith("thread:"):
            return part[len("thread:") :]
    raise GuestError(f"QEMU's debugger does not say which CPU stopped: {answer}")


class Caller:
    """
    A CPU that stands at the entry of a function of the kernel.

    :param thread: The CPU, as the stub names it.
    :param entry: Address of the function.
    """

    def __init__(self, stub: GdbStub, thread: str, entry: int) -> None:
        self.stub = stub
        self._thread = thread
        self._entry = entry
        stub.command(f"Hg{thread}", 10)
        self._saved = stub.registers()
        if self._saved[_RIP] != entry:
            raise GuestError(f"the guest stopped at 0x{self._saved[_RIP]:x}")

    def call(self, function: int, first: int, second: int = 0, *, seconds: float = 20) -> None:
        """
        Call a function with two arguments; the other CPUs stand still.

        It returns to where the CPU stands, which is where it stops.

        :raises GuestError: if it does not return in time.
        """
        stub = self.stub
        stack = (self._saved[_RSP] - _STACK_GAP & ~0xF) - 8
        stub.write(stack, struct.pack("<Q", self._entry))
        for number, value in (
            (_RDI, first),
            (_RSI, second),
            (_RSP, stack),
            (_EFLAGS, self._saved[_EFLAGS] & ~_INTERRUPTS),
            (_RIP, function),
        ):
            stub.set_register(number, value)
        stub.resume(seconds, self._thread)
        now = stub.registers()
        if (now[_RIP], now[_RSP]) != (self._entry, stack + 8):
            raise GuestError(f"the guest stopped in the middle of a call, at 0x{now[_RIP]:x}")

    def restore(self) -> None:
        """Put the CPU's registers back."""
        for number, value in enumerate(self._saved):
            self.stub.set_register(number, value)


@contextlib.contextmanager
def entered(path: Path, entry: int, *, seconds: float = 10) -> Iterator[Caller]:
    """
    Run a guest on until a CPU enters a function; it is stopped again afterwards.

    :param path: The stub's socket.
    :param entry: Address of the function.
    :raises GuestError: if no CPU enters it in time.
    """
    stub = GdbStub(path)
    try:
        stub.breakpoint(entry, on=True)
        caller = Caller(stub, stub.resume(seconds), entry)
        yield caller
        caller.restore()
        stub.breakpoint(entry, on=False)
    finally:
        stub.close()
