# SPDX-License-Identifier: LGPL-2.1-or-later

"""A QEMU machine: started, spoken to over QMP, stopped, dumped."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from .errors import GuestError, LabError, MissingToolError

__all__ = ("Machine", "Qmp", "connect", "machine")


def connect(path: Path, seconds: float = 20) -> socket.socket:
    """
    Connect to a socket that QEMU is about to open.

    :raises GuestError: if it is not there in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(path))
            return stream
        except OSError:
            stream.close()
            if time.monotonic() > deadline:
                raise GuestError("QEMU does not open its sockets") from None
            time.sleep(0.05)


class Qmp:
    """A connection to QEMU's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = connect(path)
        self._stream = self._socket.makefile("r", encoding="utf-8")
        self._receive()
        self.command("qmp_capabilities")

    def _receive(self) -> Dict[str, Any]:
        try:
            line = self._stream.readline()
        except OSError:
            line = ""
        if not line:
            raise GuestError("QEMU has ended")
        message: Dict[str, Any] = json.loads(line)
        return message

    def command(self, name: str, **arguments: object) -> Any:
        """
        Execute a command.

        :return: What the command returns.
        :raises GuestError: if QEMU reports an error.
        """
        request: Dict[str, object] = {"execute": name}
        if arguments:
            request["arguments"] = {
                key.replace("_", "-"): value for key, value in arguments.items()
            }
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise GuestError("QEMU has ended") from None
        while True:
            message = self._receive()
            if "error" in message:
                raise GuestError(f"QEMU: {name}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()


class Machine:
    """A running guest."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, console: Path) -> None:
        self.process = process
        """The QEMU process."""
        self.console = console
        """What the guest's kernel printed."""
        self.qmp_path = folder / "qmp.socket"
        """A second QMP socket, for other programs."""
        self.gdb_path = folder / "gdb.socket"
        """The gdb stub."""
        self.qmp = Qmp(folder / "control.socket")
        """The monitor."""
        self._lines = connect(folder / "lines.socket")
        self._pending = b""
        self.may_panic = False
        """Whether a panic of its kernel is what is waited for."""

    def console_tail(self, lines: int = 2) -> str:
        """Return the last lines of the console on one line."""
        try:
            text = self.console.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "nothing on its console"
        shown = [line.strip() for line in text.splitlines() if line.strip()]
        for index, line in enumerate(shown):
            if "Kernel panic" in line or "BUG:" in line or "kernel BUG at" in line:
                return " | ".join(shown[index : index + lines + 1])
        return " | ".join(shown[-lines:]) or "nothing on its console"

    def wait_for(self, word: str, seconds: float) -> str:
        """
        Wait for a line of the guest's program that begins with a word.

        :return: The rest of the line.
        :raises GuestError: if it does not come in time or the guest fails first.
        """
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self._pending:
                line, _, self._pending = self._pending.partition(b"\n")
                text = line.decode("ascii", "replace")
                if text.startswith("failed"):
                    raise GuestError(f"the guest {text}")
                if text.split(" ", 1)[0] == word:
                    return text[len(word) :].strip()
            self._lines.settimeout(min(2.0, max(0.01, deadline - time.monotonic())))
            try:
                data = self._lines.recv(4096)
            except socket.timeout:
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"no {word!r} from the guest within {seconds:.0f} s: {self.console_tail()}"
                    ) from None
                if not self.may_panic and "Kernel panic" in self.console_tail():
                    raise GuestError(f"the guest panicked: {self.console_tail()}") from None
                continue
            if not data:
                raise GuestError(f"QEMU has ended before {word!r}: {self.console_tail()}")
            self._pending += data

    def has_said(self, word: str) -> bool:
        """Return whether a line that begins with a word has come and was not waited for."""
        self._lines.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._pending += self._lines.recv(4096)
        self._lines.setblocking(True)
        return any(line.startswith(word.encode()) for line in self._pending.split(b"\n"))

    def stop(self) -> None:
        """Stop all CPUs, wherever they are."""
        self.qmp.command("stop")

    def resume(self) -> None:
        """Let them go on."""
        self.qmp.command("cont")

    def dump(self, path: Path, *, format: str = "elf") -> None:
        """
        Write the guest's memory.

        :param format: As QMP's dump-guest-memory names it.
        """
        path.unlink(missing_ok=True)
        arguments: Dict[str, object] = {"paging": False, "protocol": f"file:{path}"}
        if format != "elf":
            arguments["format"] = format
        self.qmp.command("dump-guest-memory", **arguments)


def _arguments(
    folder: Path, kernel: Path, initramfs: Path, command_line: str, options: Sequence[str]
) -> List[str]:
    # What the options name must be there first.
    return [
        "-nographic",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-nic",
        "none",
        "-chardev",
        f"file,id=console,path={folder}/console.log",
        "-chardev",
        f"socket,id=lines,path={folder}/lines.socket,server=on,wait=off",
        "-qmp",
        f"unix:{folder}/control.socket,server=on,wait=off",
        "-qmp",
        f"unix:{folder}/qmp.socket,server=on,wait=off",
        "-gdb",
        f"unix:{folder}/gdb.socket,server=on,wait=off",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initramfs),
        "-append",
        command_line,
        *options,
    ]


@contextlib.contextmanager
def machine(
    kernel: Path,
    initramfs: Path,
    command_line: str,
    options: Sequence[str],
    *,
    program: Sequence[str],
    console: Optional[Path] = None,
) -> Iterator[Machine]:
    """
    Run a guest for as long as the context lasts.

    :param options: Further arguments for QEMU: the machine, CPUs, memory, nodes.
    :param program: QEMU, and what its command line begins with.
    :param console: Where to leave what the kernel printed.
    """
    with tempfile.TemporaryDirectory(prefix="slabtype-") as name:
        folder = Path(name)
        arguments = [
            *program,
            *_arguments(folder, kernel, initramfs, command_line, options),
        ]
        errors = folder / "qemu.log"
        with errors.open("wb") as stream:
            try:
                process = subprocess.Popen(
                    arguments, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
                )
            except FileNotFoundError:
                raise MissingToolError(f"{program[0]} is not installed") from None
        guest: Optional[Machine] = None
        try:
            try:
                guest = Machine(process, folder, folder / "console.log")
            except GuestError as error:
                said = errors.read_text(errors="replace").strip().splitlines()
                raise LabError(f"{error}: {' | '.join(said[-2:])}") from None
            yield guest
        finally:
            if guest is not None:
                guest.qmp.close()
            process.kill()
            process.wait()
            if console is not None and (folder / "console.log").exists():
                console.write_bytes((folder / "console.log").read_bytes())
