# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels broken on purpose: the table of cases, and what is made of an answer."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
from lab import initramfs
from lab.breakage import Breakage, judge, markdown
from lab.cases import BOOTS, CASES, KUNIT, Boot, Case, Expected
from lab.kernels import KERNELS
from lab.matrix import full_jobs

from drgn_slabtype.codes import CATALOGUE

LAB = Path(initramfs.__file__).parent
OBJECT, PAGE = 0xFFFF888000B2F208, 0xFFFFEA000002CBC0

every_case = pytest.mark.parametrize(
    "case", [*CASES.values(), *KUNIT.values()], ids=lambda case: str(case.name)
)


def test_module_has_the_cases_of_the_table() -> None:
    source = (LAB / "breaker" / "module" / "breaker.c").read_text()
    named = re.findall(r'^\t\{ "([a-z-]+)", \w+ \},$', source, re.MULTILINE)
    assert named == [name for name in CASES if not name.isupper()]


@every_case
def test_case_has_a_proof_or_a_reason_on_every_boot(case: Case) -> None:
    for name in ("slub-6.12-breaking", "slab-6.1-rfc3-breaking"):
        for letters in BOOTS if KERNELS[name].allocator == "SLUB" else BOOTS[:1]:
            expected = case.expected(Boot.of(KERNELS[name], letters))
            assert expected.codes or expected.why
            assert set(expected.codes) <= set(CATALOGUE)


def test_kernels_that_are_broken_are_in_no_job_of_the_matrix() -> None:
    names = [name for name, kernel in KERNELS.items() if kernel.broken]
    assert names == ["slub-6.12-breaking", "slab-6.1-rfc3-breaking"]
    assert not {job.kernel.name for job in full_jobs()} & set(names)


def _report(*roots: Dict[str, Any], **lists: Any) -> Dict[str, Any]:
    empty = {"because": None, "slab": None, "cache": "lab_victim", "address": None}
    findings = [{**empty, "message": "", **root} for root in roots]
    return {"findings": findings, "changing": [], "notes": [], **lists}


def _judged(codes: List[str], report: Dict[str, Any]) -> str:
    did = [f"breaker: cache lab_victim object {OBJECT:x} page {PAGE:x}"]
    one = Breakage("slub-6.1-plain", "", "double-free", did=did)
    judge(report, Expected(tuple(codes), "" if codes else "refused"), one)
    return one.wrong


@pytest.mark.parametrize(
    "root",
    [
        {"code": "freelist-cycle", "message": f"0x{OBJECT:x} comes again", "slab": hex(PAGE)},
        {"code": "freelist-cycle", "object": hex(OBJECT)},
        # Of the slab alone, which has the object in its page.
        {"code": "freelist-cycle", "slab": hex(PAGE)},
    ],
)
def test_finding_that_names_the_place_is_right(root: Dict[str, Any]) -> None:
    assert _judged(["freelist-cycle"], _report(root)) == ""


@pytest.mark.parametrize(
    ("codes", "report", "wrong"),
    [
        (["redzone"], _report(), "not found"),
        (
            ["redzone"],
            _report({"code": "poison", "object": hex(OBJECT)}),
            "not found; instead poison: ",
        ),
        (
            ["freelist-cycle"],
            _report({"code": "freelist-cycle", "slab": hex(PAGE + 0x1000)}),
            "found somewhere else: freelist-cycle: ",
        ),
        (
            ["freelist-cycle"],
            _report(
                {"code": "freelist-cycle", "slab": hex(PAGE)},
                {"code": "list-links", "slab": hex(PAGE + 0x1000)},
            ),
            "one root too many: list-links: ",
        ),
        # Bytes behind the object, and far from it.
        (["redzone"], _report({"code": "redzone", "address": hex(OBJECT + 40)}), ""),
        (
            ["redzone"],
            _report({"code": "redzone", "object": hex(OBJECT), "address": hex(OBJECT + 999)}),
            "found somewhere else: redzone: ",
        ),
        ([], _report(), ""),
        ([], _report({"code": "poison"}), "nothing to find: poison: "),
        (
            [],
            _report(changing=[{"message": "a lock is held"}]),
            "taken for work in progress: a lock is held",
        ),
    ],
)
def test_what_is_wrong_is_told(codes: List[str], report: Dict[str, Any], wrong: str) -> None:
    assert _judged(codes, report) == wrong


def test_page_has_no_addresses_and_says_why_nothing_is_found() -> None:
    found = Breakage(
        "slub-6.1-plain",
        "",
        "free-interior",
        wanted=["freelist-pointer"],
        found=[f"freelist-pointer: entry is 0x{OBJECT:x}"],
    )
    refused = Breakage(
        "slub-6.1-plain",
        "F",
        "free-interior",
        why="refused",
        refused=[f"BUG lab_victim (Tainted: G  O  ): Invalid object pointer 0x{OBJECT:x}"],
    )
    rows = [line for line in markdown([found, refused]).splitlines() if "free-interior" in line]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1:] for row in cells] == [
        ["plain", "-", "freelist-pointer", "found"],
        ["slub_debug=F", "BUG lab_victim : Invalid object pointer …", "-", "refused"],
    ]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the guest is one of x86-64")
def test_program_compiles_without_a_warning(tmp_path: Path) -> None:
    command = ["gcc", *initramfs.FLAGS, "-Werror", "-Wmissing-prototypes", "-Wshadow"]
    sources = [LAB / "breaker" / "init.c", LAB / "guest" / "ground.c"]
    made = [*command, f"-I{LAB / 'guest'}", "-o", str(tmp_path / "init"), *map(str, sources)]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
