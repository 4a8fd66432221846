# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: exit status, standard error, output files."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import stat
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple
from xml.etree import ElementTree

import pytest
from drgn import FaultError, Program

from drgn_slabtype import __version__, cli
from drgn_slabtype import typed as reading
from drgn_slabtype.command import Once
from drgn_slabtype.commands import COMMANDS, Command
from drgn_slabtype.findings import Report
from drgn_slabtype.pagecommands import pfn_range

from ..synthetic.elf_files import OTHER_BUILD_ID, core, vmlinux
from ..synthetic.reports import damaged, healthy, incomplete


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "drgn_slabtype", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )


def error(*arguments: str) -> str:
    """Return the one line that a run which fails has on standard error."""
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr.rstrip("\n")


def test_version() -> None:
    assert run("--version").stdout == f"drgn-slabtype {__version__}\n"


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    assert all(re.search(rf"^    {command.name}\s", text, re.M) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_on_one_screen(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([command.name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    assert [line for line in lines if len(line) > 80] == []


def test_no_command_is_one_line() -> None:
    assert error() == (
        "drgn-slabtype: the following arguments are required: COMMAND (see drgn-slabtype --help)"
    )


def test_unknown_option_is_one_line() -> None:
    told = "unrecognized arguments: --sideways (see drgn-slabtype check --help)"
    assert error("check", "--sideways") == f"drgn-slabtype check: {told}"
    told = "unrecognized arguments: -c; the files of diff stand without -c"
    assert (
        error("diff", "a", "-c", "b")
        == f"drgn-slabtype diff: {told} (see drgn-slabtype diff --help)"
    )


@pytest.mark.parametrize("format", ["table", "json"])
def test_target_that_is_not_there_leaves_standard_output_empty(format: str, tmp_path: Path) -> None:
    path = str(tmp_path / "no-such-file")
    assert path in error("check", "-c", path, "--format", format)
    report = tmp_path / "report"
    assert path in error("check", "-c", path, "--format", format, "-o", str(report))
    assert not report.exists()


def test_what_ci_systems_read_says_that_there_is_no_report(tmp_path: Path) -> None:
    path = str(tmp_path / "no-such-file")
    junit, issues, page = (tmp_path / name for name in ("junit.xml", "issues.json", "page.html"))
    page.write_text("of the run before")
    done = run(
        *("check", "-c", path, "--format", "github", "--report", f"junit={junit}"),
        *("--report", f"gitlab={issues}", "--report", f"html={page}"),
    )
    why = f"{path}: no such file or directory"
    assert (done.returncode, done.stderr) == (2, f"drgn-slabtype check: {why}\n")
    assert done.stdout == f"::error title=drgn-slabtype::{why}\n"
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("errors"), suite.get("tests")) == ("1", "1")
    error_element = suite.find("testcase/error")
    assert error_element is not None
    assert error_element.get("message") == why
    (issue,) = json.loads(issues.read_text())
    assert (issue["severity"], issue["description"]) == ("blocker", why)
    assert page.read_text() == "of the run before"


def test_text_file_as_core() -> None:
    assert error("check", "-c", "/etc/passwd") == (
        "drgn-slabtype check: /etc/passwd: not a core dump: not an ELF file"
    )


def test_core_given_without_its_option() -> None:
    for command in ("check", "caches", "objects", "slabs", "pages"):
        told = error(command, "/etc/passwd")
        assert '/etc/passwd is a file: did you mean "-c /etc/passwd"?' in told
        assert "kcore" not in told


def test_two_targets_at_once() -> None:
    assert "not allowed with" in error("check", "-k", "-c", "vmcore")
    for option in ("-c", "--qemu"):
        assert "may be given only once" in error("check", option, "a", option, "b")


def _given_twice() -> List[Tuple[str, str, str]]:
    # Command, option, a value.
    found = []
    for command in COMMANDS:
        for option in command.all_options():
            settings = option.settings
            if option.flags[0].startswith("-") and settings["action"] is Once:
                value = settings.get("choices", ["7"])[0]
                found.append((command.name, option.flags[-1], value))
    targets = ("--vmcoreinfo", "--architecture", "--log-level")
    return [*found, *(("check", option, "debug") for option in targets)]


def test_an_option_that_means_one_thing_is_refused_if_given_twice() -> None:
    asked = _given_twice()
    assert {"-n", "-j", "--format", "--sort", "--bytes", "--at", "--pfn"} <= {
        option for _, option, _ in asked
    }
    for command, option, value in asked:
        with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as told:
            cli.main([*command.split(), option, value, option, value])
        assert "may be given only once" in told.getvalue(), (command, option)


def test_two_reports_to_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "report")
    for words in (
        ("check", "-o", path, "--html", path),
        ("check", "--report", f"json={path}", "--report", f"junit={tmp_path}/./report"),
        ("check", "-c", path, "-o", path),
        ("capture", "-c", path, "-o", path),
        ("pages", "--kpageflags", path, "--kpagecount", path),
    ):
        assert error(*words).endswith("named twice, and is one file")


def test_null_is_no_page() -> None:
    for text in ("NULL", "0x0", "0" * 16):
        assert "NULL is no page" in error("page", text)
    assert [reading.page(text) for text in ("0", "403", "0x403")] == [0, 403, 0x403]


def test_a_word_may_be_negative() -> None:
    assert reading.word("-14") == (1 << 64) - 14
    assert reading.word("14") == 14
    assert str(reading.word("init_task")) == "init_task"
    assert '"what -14" tells what it can be' in error("object", "-14")
    assert "has more than 64 bits" in error("what", f"-{1 << 64}")


def test_wrong_vmlinux(tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(core())
    (tmp_path / "vmlinux").write_bytes(vmlinux(OTHER_BUILD_ID))
    message = error("check", "-c", f"{tmp_path}/vmcore", "-s", f"{tmp_path}/vmlinux")
    assert OTHER_BUILD_ID.hex() in message


def test_decode_takes_signed_decimal_and_hexadecimal() -> None:
    for value in ("-1048582", "0xffeffffa", "ffeffffa", "4293918714"):
        done = run("decode", value, "--layout", "rfc-v3", "--format", "json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["readings"][0]["active"] == 5


def test_decode_of_nonsense() -> None:
    assert "zebra is not a hexadecimal number" in error("decode", "zebra")


NUMERALS = [
    ("403", 403),
    ("0x403", 0x403),
    ("4o3", None),
    ("ffff", 0xFFFF),
    ("FFFF", 0xFFFF),
    ("0403", 403),
    ("1_000", None),
    ("1000000000000000", 0x1000000000000000),
    ("ffff888003a1c480", 0xFFFF888003A1C480),
    ("-5", -5),
    (" 5", None),
    ("٣", None),
]


@pytest.mark.parametrize(("text", "number"), NUMERALS)
def test_each_reader_of_numbers_has_the_same_rule(text: str, number: Optional[int]) -> None:
    # Where a word, an address, a page, a range and a size are given.
    fits = number is not None and number >= 0
    readers: List[Tuple[Callable[[str], Any], bool, Any]] = [
        (reading.numeral, number is not None, number),
        (reading.address, fits, number),
        (lambda text: reading.span(f"0x10+{text}").size, fits, number),
        (pfn_range, fits, (number, (number or 0) + 1)),
        (reading.word32, number is not None and -(1 << 31) <= number < 1 << 32, number),
    ]
    for reader, reads, value in readers:
        if reads:
            assert reader(text) == value
            continue
        with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
            assert isinstance(reader(text), reading.Named)


def test_an_address_may_have_an_offset_as_a_symbol_may() -> None:
    for text in ("0xffff888003a1c480+8", "ffff888003a1c480+0x8"):
        assert reading.address(text) == 0xFFFF888003A1C488
    assert reading.address("add+8") == reading.Named("add", 8)


@pytest.mark.parametrize(
    ("text", "start", "size"),
    [
        ("ffff888003a1c480", 0xFFFF888003A1C480, None),
        ("ffff888003a1c480+0x8", 0xFFFF888003A1C480, 8),
        ("ffff888003a1c480:8", 0xFFFF888003A1C480, 8),
        ("ffff888003a1c480+8:0x10", 0xFFFF888003A1C488, 16),
        ("403+8", 403, 8),
        ("init_task", reading.Named("init_task"), None),
        ("init_task+8", reading.Named("init_task", 8), None),
        ("add+8", reading.Named("add", 8), None),
        ("init_task:0x10", reading.Named("init_task"), 16),
        ("init_task+0x10:8", reading.Named("init_task", 16), 8),
    ],
)
def test_behind_a_symbol_is_an_offset_and_behind_a_colon_a_size(
    text: str, start: Any, size: Optional[int]
) -> None:
    assert reading.span(text) == reading.Span(start, size)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("kmem -s -c vmcore", '"drgn-slabtype caches -c vmcore"'),
        ("kmem -c vmcore -S dentry", '"drgn-slabtype slabs dentry -c vmcore"'),
        (f"kmem -S dentry -s {__file__} -c vmcore", f'slabs dentry -s {__file__} -c vmcore"'),
        (f"kmem -s -c vmcore -s {__file__}", f'caches -c vmcore -s {__file__}"'),
        ("kmem", "here are caches, slabs, pages, page, object"),
        ("search", "here are refs"),
    ],
)
def test_commands_of_crash_keep_the_target(typed: str, meant: str) -> None:
    assert meant in error(*typed.split())


@pytest.mark.parametrize(("typed", "meant"), [("16", 16), ("0x10", 16), ("0X1f", 31), ("010", 10)])
def test_how_many_can_be_typed_in_hexadecimal(typed: str, meant: int) -> None:
    for type in (reading.count, reading.number, reading.integer):
        assert type(typed) == meant


def test_the_rule_of_numbers_is_in_the_help_of_all_that_take_them() -> None:
    told = " ".join(reading.NUMBERS.split())
    for name in ("check", "page", "pages", "object", "slabs", "refs", "what", "decode"):
        (one,) = (one for one in COMMANDS if one.name == name)
        assert any(told in option.settings["help"] for option in one.all_options()), name


@pytest.mark.parametrize("word", ["0x100000000", "4294967296", "-2147483649"])
def test_decode_of_more_than_32_bits(word: str) -> None:
    assert f"{word} has more than 32 bits" in error("decode", word)


def test_drgn_option_prints_code_and_opens_nothing() -> None:
    done = run("check", "-c", "/nonexistent", "--drgn", "--cache", "kmalloc-64", "ffff888000041000")
    assert done.returncode == 0
    compile(done.stdout, "code", "exec")
    assert "check(prog, caches=['kmalloc-64'], addresses=[0xffff888000041000])" in done.stdout


# With a target that is not there, and reports made by hand.


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that says what the check of any target comes to."""

    def set_result(result: Any) -> None:
        def check(prog: Program, **options: Any) -> Report:
            if isinstance(result, BaseException):
                raise result
            assert isinstance(result, Report)
            return result

        # What takes the function as its own when it is imported is not to take this one.
        import_module("drgn_slabtype.checking")
        monkeypatch.setattr(import_module("drgn_slabtype.check"), "check", check)

    target = import_module("drgn_slabtype.target")
    monkeypatch.setattr(target, "open_target", lambda options: Program())
    return set_result


@pytest.mark.parametrize(("report", "status"), [(healthy, 0), (damaged, 1), (incomplete, 3)])
def test_exit_status(
    reporting: Callable[[Any], None], report: Callable[[], Report], status: int
) -> None:
    reporting(report())
    assert cli.main(["check"]) == status


def test_interrupted_check_reports_what_it_has(
    reporting: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    report = healthy()
    report.interrupted = True
    reporting(report)
    assert cli.main(["check"]) == 3
    assert capsys.readouterr().out.endswith("interrupted\n")


def test_interrupt_while_opening(
    reporting: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    reporting(KeyboardInterrupt())
    assert cli.main(["check"]) == 3
    assert capsys.readouterr().out == (
        "incomplete: interrupted by SIGINT before anything was judged\n"
    )


def test_fault_at_the_start_is_a_target_error(
    reporting: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    reporting(FaultError("short read from memory file", 0xFF72000))
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == (
        "drgn-slabtype check: nothing could be judged: short read from memory file: 0xff72000\n"
    )


def test_unexpected_error_is_one_line_unless_debugging(
    reporting: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    reporting(ZeroDivisionError("a\nb"))
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == "drgn-slabtype check: ZeroDivisionError: a b\n"
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "--log-level", "debug"])


def test_output_file_appears_whole(reporting: Callable[[Any], None], tmp_path: Path) -> None:
    reporting(damaged())
    path = tmp_path / "report.json"
    assert cli.main(["check", "--format", "json", "-o", str(path)]) == 1
    assert json.loads(path.read_text())["exit_status"] == 1
    assert os.listdir(tmp_path) == ["report.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_output_file_survives_an_error(reporting: Callable[[Any], None], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("yesterday's")
    reporting(FaultError("gone", 0))
    assert cli.main(["check", "-o", str(path)]) == 2
    assert path.read_text() == "yesterday's"
    assert os.listdir(tmp_path) == ["report.json"]


def test_output_file_keeps_its_mode_and_its_link(
    reporting: Callable[[Any], None], tmp_path: Path
) -> None:
    path, link = tmp_path / "report", tmp_path / "link"
    path.write_text("")
    path.chmod(0o640)
    link.symlink_to(path)
    reporting(healthy())
    assert cli.main(["check", "-o", str(link)]) == 0
    assert path.read_text().startswith("consistent")
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_output_to_a_device(reporting: Callable[[Any], None]) -> None:
    reporting(healthy())
    assert cli.main(["check", "-o", "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("path", ["/nonexistent/report", "/", "/dev/full"])
def test_output_that_cannot_be_written(
    reporting: Callable[[Any], None], capsys: pytest.CaptureFixture[str], path: str
) -> None:
    reporting(healthy())
    assert cli.main(["check", "-o", path]) == 2
    assert capsys.readouterr().err.startswith(f"drgn-slabtype check: {path}: ")


def test_closed_pipe_is_no_error() -> None:
    script = f"{sys.executable} -m drgn_slabtype decode 0; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({script}) | true"], capture_output=True, text=True, check=True
    )
    assert done.stderr == "0\n"


def test_prompt_and_shell_have_the_same_options() -> None:
    parser = cli._parser()
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for command in COMMANDS:
        sub = actions[0].choices[command.name]
        known: List[str] = [*sub._option_string_actions, *(a.dest for a in sub._actions)]
        for option in command.all_options():
            assert set(option.flags) <= set(known)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("object", "--bytes", "-1", "0"), "-1 is no number from 0 on"),
        (("refs", "0xffff888000000000+0"), "0 is no number of bytes"),
        (("object", "0xffffffffffffffff+1"), "it has more than 64 bits"),
        (("refs", "0xffff888000000000+-8"), "-8 is no number of bytes"),
        (("refs", "init_task:0"), "0 is no number of bytes"),
        (("refs", "init_task:"), "'' is no number of bytes"),
        (("refs", "init_task+x"), "x is no number of bytes"),
        (("object", ""), "'' is neither a hexadecimal number nor a symbol"),
        (("decode", ""), "'' is not a hexadecimal number"),
        (("explain", ""), "there is no code ''; "),
        (("what", "0x10000000000000000"), "it has more than 64 bits"),
        (("what", "--at=-1", "0"), "it is negative"),
        (("page", "0x10000000000000000"), "it has more than 64 bits"),
        (("object", "99999999999999999999"), "it has more than 64 bits"),
        (("check", "-j", "0"), "0 is no number from 1 on"),
        (("check", "-j", "0x"), "0x is no number from 1 on"),
        (("check", "--rounds", "x"), "x is no number from 1 on"),
        (("check", "--watch", "inf"), "inf is no number of seconds from 0 to"),
        (("check", "--max-time", "nan"), "nan is no number of seconds from 0 to"),
        (("check", "--max-time="), "'' is no number of seconds from 0 to"),
        (("slabs", "dentry", "--cpu", "x"), "x is no number"),
        (("pages", "--node", "1.5"), "1.5 is no number"),
        (("pages", "--pfn", "5-3"), "5-3 is no range of page frames: FIRST-LAST, FIRST+COUNT or"),
        (("pages", "--pfn", "x"), "x is no range of page frames"),
        (("fleet", "-o", "x", "--max-memory", "4X", "y"), "4X is no amount of memory: 512M and"),
        (("fleet", "-o", "x", "--max-memory", "0", "y"), "0 is no amount of memory"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: Tuple[str, ...], said: str) -> None:
    assert said in error(*arguments)


@pytest.mark.parametrize("command", ["page", "object", "refs", "check"])
def test_numbers_are_read_by_one_rule(command: str) -> None:
    known = {
        "403": "0x193",
        "0x403": "0x403",
        "4a3": "0x4a3",
        "0000000000000403": "0x403",
        "1234567890123456": "0x1234567890123456",
    }
    known.update({} if command == "page" else {"NULL": "0x0"})
    for text, number in known.items():
        args = cli._parser().parse_args([command, text, "--drgn"])
        assert f"{number}" in args.command.drgn(args)
    assert "digits alone are decimal" in " ".join(run(command, "--help").stdout.split())


# Files that cannot be written.


def test_several_reports_of_one_reading(
    reporting: Callable[[Any], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporting(damaged())
    names = [f"{format}={tmp_path / format}" for format in ("json", "junit", "text")]
    options = [word for name in names for word in ("--report", name)]
    assert cli.main(["check", *options]) == 1
    text = capsys.readouterr().out
    assert (tmp_path / "text").read_text() == text
    assert json.loads((tmp_path / "json").read_text())["exit_status"] == 1
    assert (tmp_path / "junit").read_text().startswith("<?xml")


@pytest.mark.parametrize(("report", "status"), [(damaged, 1), (healthy, 2), (incomplete, 2)])
@pytest.mark.parametrize("options", [("-o", "/dev/full"), ("--report", "json=/dev/full")])
def test_file_that_cannot_be_written_hides_no_verdict(
    reporting: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
    report: Callable[[], Report],
    status: int,
    options: Tuple[str, ...],
) -> None:
    reporting(report())
    assert cli.main(["check", *options]) == status
    said = capsys.readouterr()
    assert said.err.startswith("drgn-slabtype check: /dev/full: No space left on device")
    assert said.err.count("\n") == 1
    assert said.out.splitlines()[-1].startswith(report().outcome.value)


def test_report_of_no_format_is_refused() -> None:
    assert "yaml=x is not FORMAT=FILE, of these formats: json, " in error(
        "check", "--report", "yaml=x"
    )
