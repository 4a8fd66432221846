# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that stands still: its registers, and how long it does."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import pytest

from drgn_slabtype.machine import Machine, machine
from drgn_slabtype.machine.cpus import Cpus
from drgn_slabtype.machine.offsets import Offsets
from drgn_slabtype.machine.pause import Pause, ask, parse_registers
from tests.direct_map import make_mapped_kernel

_REGISTERS = """
CPU#0
RAX=0000000000000001 RBX=ffff888001234500 RCX=0000000000000003 RDX=0000000000000004
RSI=0000000000000005 RDI=0000000000000006 RBP=0000000000000007 RSP=ffffc90000013e80
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R11=000000000000000b
R12=000000000000000c R13=000000000000000d R14=000000000000000e R15=000000000000000f
RIP=ffffffff81234567 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0000 0000000000000000 ffffffff 00c00000
CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]
SS =0018 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
GS =0000 {gs:016x} ffffffff 00c00000
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000

CPU#1
RAX=0000000000000002 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000
RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=00007ffc12345678
RIP=0000000000401000 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0
GS =0000 0000000000000000 ffffffff 00c00000
"""
_TEXT = _REGISTERS.format(gs=0xFFFF88800F200000)
_PAUSED = {"status": "paused", "running": False}
_RESUMED = {"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}


def test_registers_of_every_cpu() -> None:
    found = parse_registers(_TEXT)
    assert sorted(found) == [0, 1]
    first = found[0]
    assert (first["RIP"], first["RSP"]) == (0xFFFFFFFF81234567, 0xFFFFC90000013E80)
    assert (first["R8"], first["R15"], first["RFL"]) == (8, 15, 0x246)
    assert (first["CS"], first["SS"], first["GS"]) == (0x10, 0x18, 0xFFFF88800F200000)
    assert found[1]["RSP"] == 0x7FFC12345678


@pytest.mark.parametrize("text", ["", "CPU#0\nPC=ffff800010000000 X00=0000000000000000\n", "junk"])
def test_no_registers_in_what_is_not_understood(text: str) -> None:
    assert parse_registers(text) == {}


Answer = Callable[[str, Dict[str, str]], List[object]]
"""What a monitor says to a command, line by line."""


@pytest.fixture
def monitor() -> Iterator[Callable[[Answer], Tuple[socket.socket, socket.socket]]]:
    """Make connections to monitors that answer as they are told to: (ours, theirs)."""
    opened: List[socket.socket] = []
    threads: List[threading.Thread] = []

    def make(answer: Answer) -> Tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        opened.extend((ours, theirs))

        def serve() -> None:
            for line in iter(lambda: theirs.recv(1 << 16), b""):
                request = json.loads(line)
                for message in answer(request["execute"], request.get("arguments", {})):
                    theirs.sendall(json.dumps(message).encode() + b"\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        threads.append(thread)
        return ours, theirs

    yield make
    for one in opened:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for one in opened:
        one.close()


def _stopped(command: str, arguments: Dict[str, str]) -> List[object]:
    if command == "query-status":
        return [{"event": "STOP"}, {"return": _PAUSED}]
    assert arguments == {"command-line": "info registers -a"}
    return [{"return": _TEXT}]


def _asked(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]], answer: Answer
) -> Tuple[Optional[Pause], socket.socket]:
    ours, theirs = monitor(answer)
    return ask(ours), theirs


def test_stopped_guest_tells_its_registers(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]],
) -> None:
    pause, _ = _asked(monitor, _stopped)
    assert pause is not None
    assert pause.holds
    assert pause.registers[0]["RAX"] == 1
    pause.close()


def test_pause_ends_when_the_guest_goes_on(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]],
) -> None:
    pause, theirs = _asked(monitor, _stopped)
    assert pause is not None
    theirs.sendall(json.dumps({"event": "BALLOON_CHANGE"}).encode() + b"\r\n")
    assert pause.holds
    theirs.sendall(json.dumps(_RESUMED).encode() + b"\r\n")
    assert not pause.holds
    # Also when it is stopped again.
    theirs.sendall(json.dumps({"event": "STOP"}).encode() + b"\r\n")
    assert not pause.holds
    pause.close()


def test_pause_ends_with_the_monitor(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]],
) -> None:
    pause, theirs = _asked(monitor, _stopped)
    assert pause is not None
    theirs.shutdown(socket.SHUT_RDWR)
    assert not pause.holds
    pause.close()


@pytest.mark.parametrize("answer", [_stopped, lambda command, _: [{"return": {}}]])
def test_connection_waits_for_drgn_as_it_did_before(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]], answer: Answer
) -> None:
    ours, _ = monitor(answer)
    pause = ask(ours)
    assert os.get_blocking(ours.fileno())
    if pause is not None:
        pause.close()


def test_monitor_that_says_nothing_gives_no_pause(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drgn_slabtype.machine.pause._SECONDS", 0.05)
    pause, _ = _asked(monitor, lambda command, _: [])
    assert pause is None


@pytest.mark.parametrize("status", ["running", "inmigrate", "prelaunch"])
def test_guest_that_moves_has_no_pause(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]], status: str
) -> None:
    pause, _ = _asked(monitor, lambda command, _: [{"return": {"status": status}}])
    assert pause is None


def test_monitor_that_refuses_gives_no_pause(
    monitor: Callable[[Answer], Tuple[socket.socket, socket.socket]],
) -> None:
    pause, _ = _asked(monitor, lambda command, _: [{"error": {"class": "CommandNotFound"}}])
    assert pause is None


def test_connection_over_a_network_gives_no_pause() -> None:
    # drgn reads memory through it, and with that past its events.
    with socket.socket(socket.AF_INET) as connection:
        assert ask(connection) is None


# What a program makes of it.

_OFFSETS = [0xFFFF88800F200000, 0xFFFF88800F300000]


def _machine() -> Machine:
    kernel = make_mapped_kernel()
    t = kernel.types
    words = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip".split()
    inner = t.union(("cs", t.u16), ("csx", t.ulong))
    t.struct(
        "pt_regs",
        *((name, t.ulong) for name in words),
        (None, inner),
        ("flags", t.ulong),
        ("sp", t.ulong),
        ("ss", t.ulong),
    )
    found = machine(kernel.prog)
    found.memory.is_live = True
    found.__dict__["possible_cpus"] = Cpus(np.array([0, 1], np.int64))
    found.__dict__["per_cpu"] = Offsets(np.array(_OFFSETS, np.uint64), {}, list(_OFFSETS))
    return found


class _Told(NamedTuple):
    pause: Pause
    monitor: socket.socket


@pytest.fixture
def pauses() -> Iterator[Callable[[str], _Told]]:
    """Make pauses with what QEMU said of registers."""
    opened: List[socket.socket] = []

    def make(text: str) -> _Told:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        opened.extend((ours, theirs))
        return _Told(Pause(ours, parse_registers(text)), theirs)

    yield make
    for one in opened:
        one.close()


def test_stopped_guest_is_no_moving_target_until_it_goes_on(
    pauses: Callable[[str], _Told],
) -> None:
    known, told = _machine(), pauses(_TEXT)
    assert known.is_live
    known.pause = told.pause
    assert not known.is_live
    told.monitor.sendall(json.dumps(_RESUMED).encode())
    assert known.is_live


@pytest.mark.parametrize("number", [0, 1])
def test_cpu_in_the_kernel_is_known_by_where_its_memory_begins(
    pauses: Callable[[str], _Told], number: int
) -> None:
    # Whatever number QEMU gives it.
    regs = pauses(_REGISTERS.format(gs=_OFFSETS[number])).pause.of(_machine(), number)
    assert regs is not None
    assert regs.ip.value_() == 0xFFFFFFFF81234567
    assert (regs.sp.value_(), regs.r8.value_()) == (0xFFFFC90000013E80, 8)
    assert (regs.cs.value_(), regs.ss.value_(), regs.flags.value_()) == (0x10, 0x18, 0x246)


def test_cpu_of_a_user_is_known_by_its_number(pauses: Callable[[str], _Told]) -> None:
    regs = pauses(_TEXT).pause.of(_machine(), 1)
    assert regs is not None
    assert regs.ip.value_() == 0x401000


def test_cpu_that_was_not_told_about_has_no_registers(pauses: Callable[[str], _Told]) -> None:
    assert pauses("").pause.of(_machine(), 1) is None
