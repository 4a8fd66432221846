# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every public name is explained, and its example is run on the kernel that ships with us."""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from drgn import Program, set_default_prog

import drgn_slabtype as package
from drgn_slabtype.capture import open_capture

NAMES = sorted(package.__all__)
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(package, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(package, name))]

# Of the mail, by the names that the kernel has for them, newer types included.
KERNEL = """
    PageSlab PageBuddy PageOffline PageTable PageGuard PageHuge PageZsmalloc PageUnaccepted
    PageLargeKmalloc
    folio_test_slab folio_test_buddy folio_test_offline folio_test_pgtable folio_test_guard
    folio_test_hugetlb folio_test_zsmalloc folio_test_unaccepted folio_test_large_kmalloc
    page_has_type page_type_has_type slab_get_active
""".split()


def constant_doc(name: str) -> str:
    """Return the text below the assignment of a name that is neither class nor function."""
    module = (
        import_module(package._NAMES.get(name, ""), "drgn_slabtype")
        if name in (package._NAMES)
        else package
    )
    body = ast.parse(inspect.getsource(module)).body
    for one, below in zip(body, body[1:]):
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if any(getattr(target, "id", None) == name for target in targets):
            assert isinstance(below, ast.Expr)
            return inspect.cleandoc(ast.literal_eval(below.value))
    raise AssertionError(f"{name} is assigned nowhere")


def doc_of(name: str) -> str:
    """Return the docstring of a public name."""
    found = getattr(package, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        # A dataclass without one is given its signature.
        return inspect.cleandoc(
            found.__dict__.get("__doc__") or "" if inspect.isclass(found) else (found.__doc__ or "")
        )
    return constant_doc(name)


@pytest.fixture(scope="module")
def capture() -> Path:
    """The file of the kernel that ships with the package."""
    (found,) = (Path(package.__file__).parent / "captures").glob("*rfc*")
    return found


@pytest.fixture(scope="module")
def prog(capture: Path) -> Iterator[Program]:
    """That kernel, as drgn's prompt has it."""
    opened = open_capture(str(capture))
    set_default_prog(opened)
    yield opened
    set_default_prog(None)


@pytest.fixture(scope="module")
def at_the_prompt() -> Dict[str, Any]:
    """The names that drgn's prompt has, and all of ours."""
    names: Dict[str, Any] = {}
    for line in (
        "from drgn import Object, cast",
        "from drgn.helpers.common import *",
        "from drgn.helpers.linux import *",
        "from drgn_slabtype import *",
    ):
        exec(line, names)
    return names


def failures(name: str, doc: str, names: Dict[str, Any]) -> List[str]:
    """Return what the examples of a docstring say that is not so."""
    found = doctest.DocTestParser().get_doctest(doc, dict(names), name, None, 0)
    used = [one for one in found.examples if re.search(rf"\b{name}\b", one.source)]
    if not used:
        return [f"no example uses {name}"]
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    with contextlib.redirect_stdout(report):
        runner.run(found, out=report.write)
    return [report.getvalue()] if runner.failures else []


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_what_the_program_says(
    name: str,
    prog: Program,
    at_the_prompt: Dict[str, Any],
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(capture, tmp_path / "vmcore.xz")
    monkeypatch.chdir(tmp_path)
    assert failures(name, doc_of(name), {**at_the_prompt, "prog": prog}) == []


def test_an_example_that_is_wrong_is_told(prog: Program, at_the_prompt: Dict[str, Any]) -> None:
    names = {**at_the_prompt, "prog": prog}
    assert failures("decode", "What.\n\n>>> decode(0, 'rfc-v3')\n[]\n", names)
    assert failures("decode", "What.\n\n>>> 1\n1\n", names) == ["no example uses decode"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_explained(name: str) -> None:
    # The program is the same everywhere: the package says what it is.
    doc, given = doc_of(name), inspect.signature(getattr(package, name))
    missing = [one for one in given.parameters if one != "prog" and f":param {one}:" not in doc]
    assert missing == []
    assert re.match(r"(Return|Iterate|Write|Check|Count|Open|Let|Yield) ", doc) or ":return:" in doc


@pytest.mark.parametrize("name", CLASSES)
def test_every_member_of_a_record_is_explained(name: str) -> None:
    found = getattr(package, name)
    (node,) = ast.parse(inspect.getsource(found)).body
    assert isinstance(node, ast.ClassDef)
    members = [
        (one, below)
        for one, below in zip(node.body, [*node.body[1:], None])
        if isinstance(one, ast.AnnAssign) and not getattr(one.target, "id", "_").startswith("_")
    ]
    bare = [
        one.target.id  # type: ignore[union-attr]
        for one, below in members
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant))
    ]
    assert bare == []


def is_public(target: str, own: str) -> bool:
    """
    Return whether a reference leads to something that users can have.

    :param own: Name in whose docstring it stands; a member of it will do.
    """
    path = target.lstrip("~").split(".")
    if path[0] in ("drgn", "json", "numpy"):
        return True
    if path[0] == "drgn_slabtype":
        path = path[1:]
    if path[0] in package.__all__:
        found = getattr(package, path[0])
        return all(hasattr(found, one) or one in dir(found) for one in path[1:])
    owner = getattr(package, own)
    return len(path) == 1 and (hasattr(owner, path[0]) or path[0] in doc_of_members(owner))


def doc_of_members(owner: Any) -> List[str]:
    """Return the names of the members of a record."""
    return list(getattr(owner, "__annotations__", ()))


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_name_only_what_is_public(name: str) -> None:
    found = getattr(package, name)
    text = doc_of(name)
    if inspect.isclass(found):
        text = inspect.getsource(found)
    told = re.findall(r":(?:class|func|exc|meth|attr|data|mod):`([^`]*)`", text)
    told += re.findall(r":raises ~?([\w.]+):", text)
    known = ("FaultError", "LookupError", "ValueError", "KeyError")
    assert [one for one in told if one not in known and not is_public(one, name)] == []


def test_helpers_of_the_kernel_have_its_names() -> None:
    assert set(KERNEL) <= set(package.__all__)
    for encoding in package.ENCODINGS.values():
        assert isinstance(encoding, package.Encoding)
        for type in encoding.types:
            word = encoding.set(encoding.idle, type)
            assert encoding.is_type(word, type)
            assert encoding.clear(word, type) == encoding.idle
        if encoding.carries_active:
            word = encoding.with_active(encoding.set(encoding.idle, "slab"), 0)
            assert encoding.active(encoding.increment(word)) == encoding.active(word) + 1
            assert encoding.decrement(encoding.increment(word)) == word
