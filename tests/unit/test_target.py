# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is wrong with a target is told in one line."""

from __future__ import annotations

import lzma
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional

import pytest
from drgn import ModuleFileStatus, Program, ProgramFlags

from drgn_slabtype import target
from drgn_slabtype.debuginfo import confirm_banner, load_symbols
from drgn_slabtype.errors import TargetError
from drgn_slabtype.target import TargetOptions, describe, kernel_build_id, open_target, shortfall

from ..synthetic.elf_files import (
    BUILD_ID,
    ET_REL,
    OTHER_BUILD_ID,
    VMCOREINFO,
    core,
    elf,
    note,
    vmlinux,
)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A kernel core without debug info."""
    path = tmp_path / "vmcore"
    path.write_bytes(core())
    return path


def refusal(options: TargetOptions) -> str:
    """Return why a target is refused."""
    with pytest.raises(TargetError) as caught:
        open_target(options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    assert refusal(TargetOptions(core=str(path))) == f"{path}: no such file or directory"


def test_folder_as_core(tmp_path: Path) -> None:
    assert refusal(TargetOptions(core=str(tmp_path))) == f"{tmp_path}: is a directory"


def test_text_file_as_core(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a core\n" * 100)
    assert refusal(TargetOptions(core=str(path))) == f"{path}: not a core dump: not an ELF file"


def test_empty_file_as_core(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.touch()
    assert refusal(TargetOptions(core=str(path))) == f"{path}: the file is empty"


def test_compressed_core(tmp_path: Path) -> None:
    path = tmp_path / "vmcore.xz"
    path.write_bytes(lzma.compress(core()))
    message = refusal(TargetOptions(core=str(path)))
    assert message == f"{path}: compressed with xz, and not a capture; unpack it first"


def test_vmlinux_as_core(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    message = refusal(TargetOptions(core=str(path)))
    assert message.startswith(f"{path}: not a core dump but another kind of ELF file")


def test_qemu_dump_without_vmcoreinfo(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core(None))
    message = refusal(TargetOptions(core=str(path)))
    assert message.startswith(f"{path}: no VMCOREINFO in this dump: QEMU needs -device vmcoreinfo")


def test_core_of_a_process(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf(4, note(b"CORE", 1, bytes(336)), bytes(4096)))
    message = refusal(TargetOptions(core=str(path)))
    assert message.startswith(f"{path}: no VMCOREINFO in this core dump: not of a Linux kernel")


def test_core_cut_off_before_what_tells_of_the_kernel(tmp_path: Path) -> None:
    # s390x has it in its memory.
    path = tmp_path / "vmcore"
    path.write_bytes(elf(4, note(b"CORE", 1, bytes(336)), bytes(4096))[:-1000])
    message = refusal(TargetOptions(core=str(path)))
    assert message.startswith(f"{path}: no VMCOREINFO in what is there; truncated: 1000 of 4096 ")


def test_vmcoreinfo_of_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core({"PAGESIZE": "4096"}))
    message = refusal(TargetOptions(core=str(path)))
    assert message == f"{path}: VMCOREINFO does not contain valid OSRELEASE"


@pytest.mark.parametrize("size", [70, 130, 180])
def test_core_cut_off_before_its_notes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core()[:size])
    message = refusal(TargetOptions(core=str(path)))
    assert "nothing in it can be judged" in message


def test_unreadable_core(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    assert refusal(TargetOptions(core=str(dump))) == f"{dump}: permission denied"


def test_no_debug_info_names_what_was_looked_for(dump: Path) -> None:
    message = refusal(TargetOptions(core=str(dump)))
    name = BUILD_ID.hex()
    assert message.startswith(f"no debug info for Linux 6.1.0-test, build ID {name}: looked for ")
    assert f"/.build-id/{name[:2]}/{name[2:]}.debug" in message
    assert message.endswith(
        "; the kernel does not describe itself: its VMCOREINFO does not tell where kallsyms are "
        "(before Linux 6.0); give its vmlinux with -s"
    )


def test_no_default_symbols_looks_nowhere(dump: Path) -> None:
    message = refusal(TargetOptions(core=str(dump), default_symbols=False))
    assert "looked for" not in message


def test_debug_directory_is_looked_at(dump: Path, tmp_path: Path) -> None:
    options = TargetOptions(core=str(dump), debug_directories=[str(tmp_path)])
    assert f"looked for {tmp_path}/" in refusal(options)


def test_wrong_vmlinux_names_both_build_ids(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(OTHER_BUILD_ID))
    message = refusal(TargetOptions(core=str(dump), symbols=[str(path)]))
    assert message == (
        f"{path}: wrong vmlinux: its build ID is {OTHER_BUILD_ID.hex()}, "
        f"the kernel's is {BUILD_ID.hex()}"
    )


def test_vmlinux_without_build_id(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(None))
    message = refusal(TargetOptions(core=str(dump), symbols=[str(path)]))
    assert message.startswith(f"{path}: has no build ID, the kernel has {BUILD_ID.hex()}")


def test_right_vmlinux_without_debug_info(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    message = refusal(TargetOptions(core=str(dump), symbols=[str(path)]))
    assert message.startswith(
        f"{path}: build ID {BUILD_ID.hex()} is right, but the file has no debug info; "
    )


def test_modules_are_not_taken_for_a_wrong_vmlinux(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "module.ko"
    path.write_bytes(vmlinux(OTHER_BUILD_ID, type=ET_REL))
    assert "wrong vmlinux" not in refusal(TargetOptions(core=str(dump), symbols=[str(path)]))


def test_symbols_that_are_no_elf_file(dump: Path) -> None:
    message = refusal(TargetOptions(core=str(dump), symbols=["/etc/passwd"]))
    assert message == "/etc/passwd: not an ELF file; -s takes a vmlinux with debug info"


def test_missing_symbols(dump: Path) -> None:
    message = refusal(TargetOptions(core=str(dump), symbols=["/nonexistent/vmlinux"]))
    assert message == "/nonexistent/vmlinux: no such file or directory"


def test_build_id_comes_from_vmcoreinfo(dump: Path, tmp_path: Path) -> None:
    prog = Program()
    prog.set_core_dump(str(dump))
    assert kernel_build_id(prog) == BUILD_ID
    old = tmp_path / "old"
    old.write_bytes(core({k: v for k, v in VMCOREINFO.items() if k != "BUILD-ID"}))
    prog = Program()
    prog.set_core_dump(str(old))
    assert kernel_build_id(prog) is None


class OldKernel:
    """A program whose VMCOREINFO has no build ID, and what its memory has for a banner."""

    def __init__(self, banner: Optional[bytes]) -> None:
        self.banner = banner

    def __getitem__(self, name: str) -> Any:
        class Found:
            address_ = 0x1000

            def string_(self) -> bytes:
                return b"5.4.0"

        if name == "linux_banner" and self.banner is None:
            raise LookupError(name)
        return Found()

    def read_c_string(self, address: int, max_size: int) -> bytes:
        assert self.banner is not None
        return self.banner[:max_size]


def test_without_build_id_the_banner_tells() -> None:
    confirm_banner(OldKernel(b"Linux version 5.4.0 (gcc) #1\n"))
    confirm_banner(OldKernel(None))
    for banner in (b"Linux version 5.4.1 (gcc)\n", b"\x90\x90"):
        with pytest.raises(TargetError, match="wrong vmlinux"):
            confirm_banner(OldKernel(banner))


class Torn:
    """A program of a kernel that was stopped while it loaded a module."""

    def __init__(self) -> None:
        self.files: List[str] = []
        self.debug_info_options = SimpleNamespace(directories=())
        self.kernel = SimpleNamespace(
            name="kernel",
            debug_file_status=ModuleFileStatus.WANT,
            wants_debug_file=lambda: True,
            wants_loaded_file=lambda: True,
            try_file=self.files.append,
        )

    def __getitem__(self, name: str) -> Any:
        raise LookupError(name)

    def loaded_modules(self) -> Iterator[Any]:
        yield self.kernel, True
        raise MemoryError  # as of a count of sections that was never written

    def load_module_debug_info(self, kernel: Any) -> None:
        kernel.debug_file_status = ModuleFileStatus.HAVE

    def load_debug_info(self, paths: List[str]) -> None:
        self.files += paths
        list(self.loaded_modules())

    def type(self, name: str) -> Any:
        raise LookupError(name)


def test_modules_that_come_and_go_do_not_end_it(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("module.ko", "vmlinux")]
    Path(paths[0]).write_bytes(vmlinux(OTHER_BUILD_ID, type=ET_REL))
    Path(paths[1]).write_bytes(vmlinux())
    prog = Torn()
    load_symbols(prog, TargetOptions(core="vmcore", symbols=paths))
    assert prog.files == [paths[1], paths[0]]


def test_truncated_core_is_told_in_bytes(dump: Path) -> None:
    whole = dump.read_bytes()
    prog = Program()
    prog.set_core_dump(str(dump))
    assert shortfall(prog) is None
    dump.write_bytes(whole[:-1000])
    finding = shortfall(prog)
    assert finding is not None
    assert finding.code == "unreadable"
    assert finding.message == (
        f"{dump}: truncated: 1000 of 65536 bytes of memory are not in the file"
    )
    assert (finding.expected, finding.found) == (65536, 64536)


def test_running_kernel_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its /proc/kcore is an ELF core whose segments lie far behind the end.
    class Live:
        flags = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
        core_dump_path = "/proc/kcore"
        cache: Dict[str, Any] = {}  # noqa: RUF012

    monkeypatch.setattr(target, "ElfFile", lambda file: pytest.fail("it was looked at"))
    assert shortfall(Live()) is None


def test_description_of_a_core_that_someone_else_opened(dump: Path) -> None:
    prog = Program()
    prog.set_core_dump(str(dump))
    found = describe(prog)
    assert (found.kind, found.path) == ("core", str(dump))
    assert (found.release, found.architecture) == ("6.1.0-test", "x86_64")


def test_no_permission_for_the_running_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def set_kernel(self) -> None:
            raise PermissionError(1, "Operation not permitted", "/proc/kcore")

    monkeypatch.setattr(target, "Program", lambda **_: Forbidden())
    assert refusal(TargetOptions()) == (
        "cannot read /proc/kcore: operation not permitted; "
        "the running kernel can be read by root only"
    )


def test_no_running_kernel_here(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def set_kernel(self) -> None:
            raise FileNotFoundError(2, "No such file or directory", "/proc/kcore")

    monkeypatch.setattr(target, "Program", lambda **_: Absent())
    message = refusal(TargetOptions())
    assert message.startswith("cannot read the running kernel: /proc/kcore: no such file")


def test_qemu_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    message = refusal(TargetOptions(qemu=str(path)))
    assert message == f"cannot connect to QEMU at {path}: no such file or directory"


def test_refused_qemu_socket(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))  # and does not listen
        message = refusal(TargetOptions(qemu=str(path)))
    assert message == f"cannot connect to QEMU at {path}: connection refused"


@pytest.fixture
def chatterbox(tmp_path: Path) -> Iterator[Path]:
    """A socket of something that is not QEMU."""
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield path
        thread.join()


def test_socket_of_something_else(chatterbox: Path) -> None:
    message = refusal(TargetOptions(qemu=str(chatterbox)))
    assert message == f"{chatterbox} is not a QMP socket of QEMU"


def test_qemu_that_serves_someone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_QMP_SECONDS", 0.1)
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        message = refusal(TargetOptions(qemu=str(path)))
    assert message.startswith(f"QEMU at {path} does not answer: it serves one client at a time")


def test_qemu_over_tcp_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        message = refusal(TargetOptions(qemu=address))
    assert message == f"cannot connect to QEMU at {address}: connection refused"


def test_unknown_architecture(dump: Path) -> None:
    options = TargetOptions(core=str(dump), architecture="pdp11")
    # Options that drgn takes apply to files that drgn opens.
    assert refusal(options).startswith("unknown architecture pdp11; there are unknown, x86_64,")


def test_missing_vmcoreinfo_file(dump: Path) -> None:
    options = TargetOptions(core=str(dump), vmcoreinfo="/nonexistent/vmcoreinfo")
    assert refusal(options) == "/nonexistent/vmcoreinfo: no such file or directory"


def test_vmcoreinfo_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core(None))
    info = tmp_path / "vmcoreinfo"
    info.write_text("".join(f"{name}={value}\n" for name, value in VMCOREINFO.items()))
    message = refusal(TargetOptions(core=str(path), vmcoreinfo=str(info)))
    assert message.startswith("no debug info for Linux 6.1.0-test")
