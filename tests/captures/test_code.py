# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code that --drgn prints runs, and prints what the command tells."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import pytest
from drgn import Program

from drgn_slabtype import as_json, cli
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.answers.stacks import stacks
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.command import Command, answer
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.errors import TargetError
from drgn_slabtype.machine import machine
from drgn_slabtype.report.json import check as check_as_json
from drgn_slabtype.report.json import objects as objects_as_json
from drgn_slabtype.report.text import slabs as as_text

from ..recipes.overlay import overlay
from ..recipes.suites import suite_of

HERE = Path(__file__).parent

LINES = (
    "check",
    "check --cache kmalloc-64",
    "check OBJECT",
    "check --html PAGE --report json=JSON --report junit=JUNIT --report text=TEXT",
    "check --rounds 2 --watch 0",
    "check --capture KEPT --max-time 600",
    "check --max-time 600 --html PAGE --report json=JSON",
    "check -j 2 --until-finding --rounds 1",
    "check --cache kmalloc-64 --known CAUSES --write-baseline ACCEPTED",
    "check --cache kmalloc-64 --baseline CAUSES",
    "pages",
    "pages -t slab -t buddy",
    "pages -l -n 5",
    "pages -b slab --node 0 --pfn 0x1000-0x2000 -l --flags --map",
    "pages --kpageflags FLAGS --kpagecount COUNTS",
    "page OBJECT",
    "caches",
    "caches 'kmalloc-*' dentry --sort name -n 5 --per-node --per-cpu --aliases",
    "objects kmalloc-64",
    "objects kmalloc-64 --free --waiting",
    "objects kmalloc-64 --in-use --unknown",
    "objects kmalloc-64 -n 3",
    "slabs kmalloc-64",
    "slabs kmalloc-64 --partial --full --node 0",
    "slabs kmalloc-64 --cpu 0",
    "slabs kmalloc-64 -n 2",
    "slabs kmalloc-64 --slab OBJECT",
    "object OBJECT",
    "object OBJECT --bytes 32 --neighbours 3",
    "object OBJECT --everywhere",
    "what 6b6b6b6b6b6b6b6b",
    "what dead000000000122 --at OBJECT",
    "stacks -j 2",
    "stacks kmalloc-64 --freed",
    "stacks kmalloc-64 --by words -n 3",
    "stacks --by sites",
    "owners kmalloc-64",
    "owners kmalloc-64 -n 1",
    "refs OBJECT",
    "refs OBJECT+8 --in data --in slabs --type 'struct kmem_cache' -n 5 -j 2",
    "layout",
    "decode 0xffeffffa",
    "decode 0xffeffffa --layout rfc-v3",
    "diff CAPTURE CAPTURE",
    "diff SAVED SAVED -s VMLINUX",
    "diff SAVED CAPTURE -n 3",
    "capture -o PACKED",
    "capture -o PACKED --uncompressed --contents -j 2",
    "explain",
    "explain redzone 'freelist-*' -n 2",
    "demo",
)


# Of many dumps; the second goes on where the first was.
FLEET = (
    "fleet CAPTURE -o RESULTS -s HERE --no-default-symbols -j 1 --max-time 600 --max-memory 4G",
    "fleet CAPTURE -o RESULTS --by-kernel --known CAUSES --html PAGE",
    "fleet report RESULTS --by-kernel --known CAUSES --html PAGE",
)
_ELSEWHERE = "--scheduler"
"""What takes more than one machine."""

KERNELS = ("debian-6.12-plain", "debian-7-debug", "slab-5.10-plain")
_TRACKED = ("object", "stacks", "slabs", "what")
"""Commands that tell more of a kernel under slub_debug: it takes long, and has these alone."""
_CASES = [
    (kernel, line)
    for kernel in KERNELS
    for line in LINES
    if not kernel.endswith("-debug") or line.split()[0] in _TRACKED
]


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prog(kernel: str) -> Program:
    return open_capture(str(HERE / kernel / "capture.xz"))


def _run(code: str, prog: Optional[Program]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"prog": prog})
    return printed.getvalue()


def _command(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


@pytest.mark.parametrize(("kernel", "line"), _CASES, indirect=["kernel"])
def test_code_runs(kernel: str, prog: Program, line: str, tmp_path: Path) -> None:
    names = {
        "OBJECT": f"{next(iter(objects(prog, 'kmalloc-64'))).address:x}",
        "CAPTURE": str(HERE / kernel / "capture.xz"),
        **{name: str(tmp_path / name) for name in (*_INPUTS, *_OUTPUTS)},
    }
    asked = set(re.split(r"[ =]", line))
    for name, value in names.items():
        line = line.replace(name, value)
    for name in asked & {*_INPUTS}:
        (tmp_path / name).write_text(_INPUTS[name](prog))
    words = shlex.split(line)
    command = _command(words[0])
    args = cli._parser().parse_args([*words, "--format", "json"])
    try:
        records = answer(command, lambda: prog, args)
    except TargetError as error:
        told: Any = str(error)
    else:
        told = "".join(records.text)
    assert command.drgn is not None
    args.format = "table"
    printed = _run(command.drgn(args), prog)
    written = {path.name for path in tmp_path.iterdir()}
    # A capture is written of a finding, and there is none.
    assert written == asked & {*_INPUTS, *_OUTPUTS} - {"KEPT"}
    assert all((tmp_path / name).stat().st_size for name in written)
    assert printed.count("\n") >= _rows(command.name, told), told


def _saved(prog: Program) -> str:
    # Of a moment at which some caches had one object more.
    told = json.loads("".join(check_as_json(check(prog))))
    for cache in told["caches"][:5]:
        cache["in_use"] += 1
    return json.dumps(told)


_INPUTS: Dict[str, Callable[[Program], str]] = {
    "SAVED": _saved,
    "CAUSES": lambda prog: '[[cause]]\nname = "one"\ntext = "more"\ncode = "redzone"\n',
}
_OUTPUTS = ("PAGE", "KEPT", "FLAGS", "COUNTS", "JSON", "JUNIT", "TEXT", "ACCEPTED", "PACKED")

# Members of an answer of which each record has a line of its own.
_LISTED = {
    "check": "findings accepted unavailable changing notes",
    "pages": "types zones flags runs conflicts",
    "caches": "caches unavailable",
    "objects": "objects unavailable",
    "slabs": "slabs objects unavailable",
    "object": "neighbours tracks lines words stretches meanings",
    "what": "meanings",
    "stacks": "stacks kinds sites",
    "owners": "owners nodes per_cpu",
    "refs": "references",
    "decode": "readings",
    "diff": "findings caches stacks pages left_out",
    "capture": "regions left_out",
    "explain": "codes",
    "demo": "reports",
}


def _rows(name: str, told: str) -> int:
    # How many lines the code prints at least.
    try:
        answer = json.loads(told)
    except ValueError:
        return max(told.count("\n"), 1)  # an error, or a document for each round
    assert {*_LISTED.get(name, "").split()} & {*answer} or name in ("page", "layout")
    found = sum(len(answer.get(member) or ()) for member in _LISTED.get(name, "").split())
    return found + len((answer.get("map") or {}).get("cells", ()))


def test_every_option_is_run() -> None:
    # Those that say where a report goes, and in which format, are not about what is asked.
    for command in COMMANDS:
        name = command.name.split()
        lines = [line.split() for line in (*LINES, *FLEET) if line.split()[: len(name)] == name]
        assert bool(lines) == (command.drgn is not None), command.name
        for option in command.options if lines else ():
            flags = {*option.flags}
            if _ELSEWHERE in flags:
                continue
            assert not option.flags[0].startswith("-") or any(flags & {*line} for line in lines), (
                command.name,
                flags,
            )


def test_code_of_many_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = str(HERE / "broken" / "slub-6.1-plain-P-overflow-word.xz")
    (tmp_path / "CAUSES").write_text('[[cause]]\nname = "one"\ntext = "more"\ncode = "redzone"\n')
    names = {"CAPTURE": damaged, "HERE": str(HERE)}
    names.update({name: str(tmp_path / name) for name in ("RESULTS", "CAUSES", "PAGE")})
    for line in FLEET:
        for name, value in names.items():
            line = line.replace(name, value)
        assert cli.main([*line.split(), "--drgn"]) == 0
        printed = _run(capsys.readouterr().out, None)
        assert cli.main(line.split()) == 1
        told = capsys.readouterr().out
        assert "1 dump; 1 damaged" in told
        assert printed.startswith("1 padding in lab_victim")
        assert "FleetTotals(dumps=1, damaged=1, " in printed
        assert printed.split("\n")[0][2:] in " ".join(told.split())
        page = tmp_path / "PAGE"
        assert page.exists() == ("--html" in line)
        page.unlink(missing_ok=True)


def test_code_that_fails_leaves_the_file_that_it_was_to_write(tmp_path: Path) -> None:
    path, prog = tmp_path / "told", open_capture(str(HERE / KERNELS[0] / "capture.xz"))
    path.write_text("precious")

    def code(*words: str) -> str:
        args = cli._parser().parse_args(["owners", *words, "--drgn"])
        return "".join(answer(args.command, lambda: prog, args).text)

    with pytest.raises(TargetError):
        _run(code("nosuch", "-o", str(path)), prog)
    assert path.read_text() == "precious"
    assert _run(code("kmalloc-64", "-o", str(path)), prog) == ""
    assert path.read_text() == _run(code("kmalloc-64"), prog) != ""


def test_a_page_that_cannot_be_written_has_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["fleet", str(HERE), "-o", str(tmp_path)], ["fleet", "report", str(tmp_path)]):
        assert cli.main([*words, "--html", "/nonexistent/page", "--drgn"]) == 2
        assert capsys.readouterr().out == ""


def test_code_about_call_traces_runs() -> None:
    # Of a kernel that keeps them.
    command = _command("stacks")
    args = cli._parser().parse_args(["stacks", "kmalloc-64", "dent*", "--freed", "-n", "3"])
    prog = open_capture(str(HERE / "debian-7-debug" / "capture.xz"))
    assert command.drgn is not None
    told = stacks(prog, "kmalloc-64", "dent*", freed=True, most=3).stacks
    assert told
    printed = _run(command.drgn(args), prog)
    *rows, last, damage = printed.splitlines()
    assert damage == "0 unknown; damaged caches: 0"
    assert rows == [f"{one.count} {one.cache} {one.caller} {one.stack}" for one in told]
    every = stacks(prog, "kmalloc-64", "dent*", freed=True)
    assert last == (
        f"{every.tracked} objects with a record, in 2 caches; "
        f"{every.untracked} without one, 0 with one that is overwritten"
    )


def _damaged(name: str, recipe: str) -> Program:
    prog = open_capture(str(HERE / name / "capture.xz"))
    suite = suite_of(prog)
    overlay(prog, suite.recipes[recipe](suite.open(prog)).writes)
    return prog


@pytest.mark.parametrize(
    "line",
    [
        "stacks kmalloc-64 -n 3",
        "stacks kmalloc-64 --by words -n 3",
        "caches kmalloc-64",
        "slabs kmalloc-64 -n 2",
        "objects kmalloc-64 -n 2",
        "owners kmalloc-64",
    ],
)
def test_code_tells_what_is_not_in_the_target(line: str) -> None:
    args = cli._parser().parse_args(line.split())
    prog = _damaged("debian-7-debug", "next-cache-garbage")
    told = "".join(answer(args.command, lambda: prog, args).text)
    missing = re.findall(r"^unavailable: (.*)$", told, re.M)
    assert missing
    assert args.command.drgn is not None
    printed = _run(args.command.drgn(args), prog).splitlines()
    assert [one for one in missing if one not in printed] == []


def test_code_tells_what_is_wrong() -> None:
    prog = _damaged("debian-6.12-plain", "next-garbage")
    root = next(one for one in check(prog).findings if one.because is None)
    for line, told in (
        (f"caches {root.cache}", [f"{root.cache}* ", "1 caches with something wrong: see check"]),
        (f"slabs {root.cache}", [f" {root.code}\n"]),
        (f"objects {root.cache}", ["something is wrong with it: see check"]),
        (f"owners {root.cache}", ["something is wrong with it: see check"]),
    ):
        args = cli._parser().parse_args(line.split())
        assert args.command.drgn is not None
        printed = _run(args.command.drgn(args), prog)
        assert [one for one in told if one not in printed] == []


def test_code_has_no_option_that_was_not_given() -> None:
    for line in LINES:
        args = cli._parser().parse_args(shlex.split(line.replace("OBJECT", "ffff888000000000")))
        assert args.command.drgn is not None
        code = args.command.drgn(args)
        # Whether all caches are asked depends on the machine.
        assert "=None" not in code.replace("everywhere=None", ""), line


@pytest.mark.parametrize("option", ["-o", "--write-baseline", "--html", "--report json="])
def test_code_that_cannot_write_tells_the_verdict_and_one_error(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nonexistent" / "x"
    words = f"check --cache dentry {option}{'' if option.endswith('=') else ' '}{path}".split()
    assert cli.main([*words, "--drgn"]) == 0
    code = capsys.readouterr().out
    prog, printed = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz")), io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(TargetError) as raised:
        exec(code, {"prog": prog})
    assert str(raised.value) == f"{path}: No such file or directory"
    assert printed.getvalue().splitlines()[-1].startswith("consistent ")


@pytest.mark.parametrize("format", ["json", "junit", "github", "gitlab"])
def test_code_of_a_check_writes_the_format_that_was_asked_for(format: str) -> None:
    prog = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz"))
    args = cli._parser().parse_args(["check", "--cache", "kmalloc-64", "--format", format])
    assert args.command.drgn is not None
    printed = _run(args.command.drgn(args), prog)
    told = "".join(answer(args.command, lambda: prog, args).text)
    # What a check cost is another each time.
    assert printed[:40] == told[:40]
    assert printed.count("\n") == told.count("\n")


def test_code_about_damage_tells_all_of_it() -> None:
    prog = open_capture(str(HERE / "broken" / "slub-6.1-plain-P-overflow-word.xz"))
    (root,) = (one for one in check(prog).findings if one.because is None)
    for line in ("check", f"object {root.object or root.slab:x}"):
        args = cli._parser().parse_args(line.split())
        assert args.command.drgn is not None
        assert root.message in _run(args.command.drgn(args), prog)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stacks", "no cache keeps who allocated its objects (SLUB's do"),
        ("stacks --freed", "no cache keeps who freed its objects (SLUB's do"),
        ("stacks kmalloc-64", "kmalloc-64: no record of who allocated objects ("),
        ("stacks kmalloc-64 --freed", "kmalloc-64: no record of who freed objects ("),
        ("stacks --by sites", "this kernel has no memory allocation profiling"),
    ],
)
def test_what_a_kernel_does_not_keep_is_one_line_and_one_status(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(HERE / "debian-6.12-plain" / "capture.xz")
    args = cli._parser().parse_args(line.split())
    assert args.command.drgn is not None
    printed = _run(args.command.drgn(args), open_capture(path))
    assert printed.startswith(told)
    assert printed.count("\n") == 1
    assert cli.main([*line.split(), "-c", path]) == 2
    assert capsys.readouterr().err == f"drgn-slabtype stacks: {printed}"
    for format in ("table", "json"):
        assert cli.main([*line.split(), "--format", format, "-c", path]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1


def test_of_a_cpu_that_has_no_slab_is_told_why(prog: Program) -> None:
    answers = (
        slabs(prog, cache.address, cpu=cpu)
        for cache in caches(prog).caches
        for cpu in machine(prog).cpus.tolist()
    )
    answer = next(answer for answer in answers if not answer.slabs)
    first, why = as_text(answer).splitlines()
    assert first.endswith(": 0 slabs, 0 objects")
    assert why == answer.why_none


def test_two_states_mean_both(prog: Program) -> None:
    both = objects(prog, "kmalloc-64", ["free", "in use"])
    each = [objects(prog, "kmalloc-64", state) for state in ("free", "in use")]
    assert sorted(both.addresses()) == sorted(each[0].addresses() + each[1].addresses())
    assert json.loads("".join(objects_as_json(both)))["count"] == len(both)
    with pytest.raises(ValueError, match="nope is no state: these are in use, free"):
        objects(prog, "kmalloc-64", "nope")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("check --watch 1 --rounds 1 --baseline F", "--baseline is for one check, not for rounds"),
        ("check --rounds 1 --html G -j 2", "--jobs and --html are for one check"),
        ("pages --map -n 3", "-n N says how much of --list is told"),
        ("stacks --by words", "--by words: name one cache"),
        ("stacks kmalloc-64 --freed --by words", "--by words: name one cache"),
    ],
)
def test_what_is_refused_has_no_code(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(HERE / "debian-6.12-plain" / "capture.xz")
    said = set()
    for words in ([], ["--drgn"]):
        assert cli.main([*line.split(), *words, "-c", path]) == 2
        out, err = capsys.readouterr()
        assert not out
        said.add(err)
    (one,) = said
    assert told in one


@pytest.mark.parametrize("line", ["caches 'kmalloc-*' -n 3", "check --cache dentry --format json"])
def test_code_writes_the_file_that_the_command_would(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report"
    path.write_text("before")
    prog = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz"))
    assert cli.main([*shlex.split(line), "--drgn"]) == 0
    printed = _run(capsys.readouterr().out, prog)
    assert cli.main([*shlex.split(line), "-o", str(path), "--drgn"]) == 0
    assert path.read_text() == "before"
    assert _run(capsys.readouterr().out, prog) == ""
    assert path.read_text()[:60] == printed[:60]


@pytest.mark.parametrize(
    "line",
    [
        "check --cache dentry --known CAUSES",
        "check --cache dentry --rounds 1 --known CAUSES",
        "pages --flags -l -n 3 --map",
        "page 403",
        "caches 'kmalloc-*' -n 3 --per-node",
        "objects kmalloc-64 -n 3",
        "slabs kmalloc-64 -n 2",
        "object OBJECT",
        "what 6b6b6b6b6b6b6b6b",
        "stacks kmalloc-64 --by words -n 3",
        "owners kmalloc-64",
        "refs OBJECT -n 5",
        "layout",
        "decode 0xffeffffa",
        "decode 0xffeffffa --layout rfc-v3",
        "diff SAVED CAPTURE -n 3",
        "capture -o PACKED",
        "explain redzone",
    ],
)
def test_code_in_json_prints_the_document_of_the_command(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prog = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz"))
    names = {
        "OBJECT": f"{next(iter(objects(prog, 'kmalloc-64'))).address:x}",
        "CAPTURE": str(HERE / "debian-6.12-plain" / "capture.xz"),
        **{name: str(tmp_path / name) for name in ("SAVED", "CAUSES", "PACKED")},
    }
    for name in {*_INPUTS} & set(line.split()):
        (tmp_path / name).write_text(_INPUTS[name](prog))
    for name, value in names.items():
        line = line.replace(name, value)
    args = cli._parser().parse_args([*shlex.split(line), "--format", "json"])
    told = json.loads("".join(answer(args.command, lambda: prog, args).text))
    assert args.command.drgn is not None
    printed = json.loads(_run(args.command.drgn(args), prog))
    assert printed.keys() == told.keys()
    # What a run cost is another each time; the path is known to who opened it.
    other = {"totals", "target", "time", "notes", "caches" if "check" in line else "command"}
    assert {key for key in told if printed[key] != told[key]} <= other


def test_what_is_no_answer_has_no_document() -> None:
    nothing: Tuple[Any, ...] = (5, [], None, {"a": 1})
    for given in nothing:
        with pytest.raises(ValueError, match=r"is no answer of a command"):
            as_json(given)
