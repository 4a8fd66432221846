# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plugin is loaded by every drgn program of its users, and must cost nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
from drgn import Object, Program
from drgn.commands import CommandError, CommandNotFoundError, run_command

from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.errors import TargetError
from drgn_slabtype.typed import Named, Span

from ..synthetic.elf_files import core, kernel_program
from ..synthetic.reports import healthy

import drgn_slabtype.plugin as plugin  # isort: skip


def python(code: str, **environment: str) -> str:
    """Return what a fresh Python prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "DRGN_DISABLE_PLUGINS": "*", **environment},
    ).stdout


MODULES = """
import sys, drgn.commands.linux
before = set(sys.modules)
import drgn_slabtype.plugin
loaded = set(sys.modules) - before
heavy = ("drgn_slabtype", "numpy", "tabulate", "tqdm")
print(*sorted(m for m in loaded if m.split(".")[0] in heavy))
"""


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    loaded = set(python(MODULES).split())
    assert loaded == {
        "drgn_slabtype",
        "drgn_slabtype.command",
        "drgn_slabtype.commands",
        "drgn_slabtype.habits",
        "drgn_slabtype.pagecommands",
        "drgn_slabtype.plugin",
        "drgn_slabtype.questions",
        "drgn_slabtype.triage",
        "drgn_slabtype.typed",
    }


DECODE = """
import contextlib, io, sys
from drgn_slabtype.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    status = main(["decode", "0xffeffffa"])
heavy = ("numpy", "tqdm", "drgn.helpers.linux")
print(status, "rfc-v3" in out.getvalue(), *(m for m in heavy if m in sys.modules))
"""


def test_decoding_a_word_imports_no_numpy() -> None:
    assert python(DECODE) == "0 True\n"


COMMAND = """
import os, sys
import drgn_slabtype.__main__
drgn_slabtype.__main__._start_no_more_than_needed()
from drgn import Program
Program().set_core_dump({path!r})
unneeded = ("drgn_slabtype.plugin", "drgn.commands._crash", "drgn.commands._builtin")
print(os.environ["DRGN_DISABLE_PLUGINS"], [m for m in unneeded if m in sys.modules])
"""


def test_a_command_imports_no_commands_of_the_prompt_but_other_plugins(tmp_path: Path) -> None:
    path, other = tmp_path / "vmcore", tmp_path / "other.py"
    path.write_bytes(core())
    other.write_text("def drgn_prog_set(prog):\n    print('other')\n")
    said = python(
        COMMAND.format(path=str(path)),
        DRGN_DISABLE_PLUGINS="own",
        DRGN_PLUGINS=f"mine={other}",
    )
    assert said == "other\nown,slabtype,builtin_commands,crash_commands []\n"


WINGS = """
import sys
import drgn_slabtype.answers.object, drgn_slabtype.check
wings = ("slab", "slub")
print(*(w for w in wings if f"drgn_slabtype.allocators.{w}.allocator" in sys.modules))
"""


def test_no_allocator_is_imported_before_it_is_known_which() -> None:
    assert python(WINGS) == "\n"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, drgn_slabtype; print('numpy' in sys.modules, 'drgn' in sys.modules)"
    assert python(code) == "False False\n"


TIME = """
import time, drgn.commands.linux
start = time.process_time()
import drgn_slabtype.plugin
print(time.process_time() - start)
"""


def test_importing_the_plugin_takes_less_than_30_ms() -> None:
    # CPU time and the best of five: other programs of the machine do not count.
    assert min(float(python(TIME)) for _ in range(5)) < 0.030


HOOK = """
import sys, drgn_slabtype.plugin, drgn, time
prog = drgn.Program()
prog.set_core_dump(sys.argv[1] if len(sys.argv) > 1 else {path!r})
start = time.process_time()
drgn_slabtype.plugin.drgn_prog_set(prog)
print("numpy" in sys.modules, time.process_time() - start)
"""


def test_hook_leaves_ordinary_cores_alone(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core())
    answers = [python(HOOK.format(path=str(path))).split() for _ in range(5)]
    assert {numpy for numpy, _ in answers} == {"False"}
    assert min(float(seconds) for _, seconds in answers) < 0.030


WITHOUT_COMMANDS = """
import sys
sys.modules["drgn.commands"] = None
import drgn_slabtype.plugin
print("imported")
"""


def test_drgn_without_commands_is_left_alone() -> None:
    assert python(WITHOUT_COMMANDS) == "imported\n"


@pytest.fixture
def prog(tmp_path: Path) -> Program:
    """A kernel program without debug info."""
    return kernel_program(tmp_path)


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    """What the check was called with; it finds nothing, or raises ``error``."""
    from importlib import import_module

    calls: Dict[str, Any] = {}

    def check(prog: Program, **options: Any) -> Any:
        calls.update(options)
        if "error" in calls:
            raise calls["error"]
        return healthy()

    # What takes the function as its own when it is imported is not to take this one.
    import_module("drgn_slabtype.checking")
    monkeypatch.setattr(import_module("drgn_slabtype.check"), "check", check)
    monkeypatch.setattr("drgn_slabtype.target.ensure_types", lambda prog: None)
    return calls


def test_command_says_what_a_kernel_without_debug_info_lacks(prog: Program) -> None:
    with pytest.raises(CommandError) as caught:
        run_command(prog, "slabcheck")
    assert str(caught.value) == (
        "no debug info for Linux 6.1.0-test; the kernel does not describe itself: "
        "its VMCOREINFO does not tell where kallsyms are (before Linux 6.0)"
    )


def test_command_prints_and_returns_its_records(
    prog: Program, reporting: Dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_command(prog, "slabcheck --cache kmalloc-64 ffff888000041000")
    assert report.exit_status == 0
    assert reporting["caches"] == ["kmalloc-64"]
    assert reporting["addresses"] == [0xFFFF888000041000]
    text = capsys.readouterr().out
    assert text.startswith("consistent: Linux 6.1.0-test x86_64")
    assert report.target.path == prog.core_dump_path


def test_variables_of_the_prompt_are_addresses(prog: Program, reporting: Dict[str, Any]) -> None:
    # Objects of drgn and numbers; what else a name may be is a symbol.
    names = {
        "page": Object(prog, prog.pointer_type(prog.void_type()), 0xFFFFEA0000001000),
        "found": 0xFFFF888000041000,
        "print": print,
        "flag": "text",
        "nowhere": Object(prog, prog.pointer_type(prog.void_type()), 0),
    }
    run_command(prog, "slabcheck page found+0x10 0x5 > /dev/null", globals=names)
    assert reporting["addresses"] == [0xFFFFEA0000001000, 0xFFFF888000041010, 5]
    for name in ("print", "flag"):
        with pytest.raises(CommandError, match=f"there is no symbol {name}"):
            run_command(prog, f"slabcheck {name}", globals=names)
    with pytest.raises(CommandError, match="nowhere is NULL"):
        run_command(prog, "slabcheck nowhere", globals=names)
    given = Span(Named("found", 1), 8)
    assert plugin._variables(given, names) == Span(0xFFFF888000041001, 8)
    assert plugin._variables("found", names) == "found"


def test_command_and_shell_share_defaults(prog: Program, reporting: Dict[str, Any]) -> None:
    run_command(prog, "slabcheck --cache a > /dev/null")
    run_command(prog, "slabcheck > /dev/null")
    # A default that is appended to would remember the first call.
    assert list(reporting["caches"]) == []


def test_command_error_is_drgns(prog: Program, reporting: Dict[str, Any]) -> None:
    reporting["error"] = TargetError("there is no slab cache named nope")
    with pytest.raises(CommandError, match="no slab cache named nope"):
        run_command(prog, "slabcheck --cache nope")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "slabcheck -c vmcore",
            "-c is for the shell: a command at the prompt is about the program",
        ),
        ("slabcheck --core=vmcore", "--core=vmcore is for the shell: "),
        ("slabcaches -s vmlinux", "-s is for the shell: "),
        ("slabcheck --nope", r"unrecognized arguments: --nope \(see %slabcheck --help\)"),
    ],
)
def test_an_option_that_a_command_does_not_have(prog: Program, line: str, said: str) -> None:
    with pytest.raises(CommandError, match=f"^{said}"):
        run_command(prog, line)


def test_commands_are_for_kernels_only() -> None:
    with pytest.raises(CommandNotFoundError):
        run_command(Program(), "slabcheck")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.prompt], ids=lambda c: c.name)
def test_drgn_option_prints_code_that_imports(
    command: Any, prog: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    required = [
        "0"
        for option in command.options
        if not option.flags[0].startswith("-") and "nargs" not in option.settings
    ]
    assert run_command(prog, " ".join([command.prompt, *required, "--drgn"])) is None
    code = capsys.readouterr().out
    imports = [line for line in code.splitlines() if line.startswith(("from", "import"))]
    exec("\n".join(imports), {})
    compile(code, "code", "exec")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.prompt], ids=lambda c: c.name)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_at_the_prompt_is_the_shells(
    command: Any, option: str, prog: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    # Also where arguments are missing.
    assert run_command(prog, f"{command.prompt} {option}") is None
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: {command.prompt} ")
    assert command.description in text
    for one in command.all_options():
        assert " ".join(one.settings["help"].split()) in text


def test_hook_is_where_drgn_looks_for_it() -> None:
    assert callable(plugin.drgn_prog_set)
