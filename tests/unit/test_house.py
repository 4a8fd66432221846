# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan of the house: which room may use which, and how large things may grow."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

PACKAGE = Path(__file__).parents[2] / "drgn_slabtype"

# Rooms in the order of docs/architecture.md: each imports from those before it, and itself.
ROOMS = """
    signals workers errors distinct spelling arguments shapes records codes particulars signature
    findings footprint files finders btf pagetype regions machine pages
    index ledger rules allocators
    pagecheck reading strays blanks copies
    answers looks confirm course check
    capture debuginfo target diff demo watch
    habits typed unjudged report command fleet checking pagecommands questions triage commands cli
    plugin kernelci
    __main__
""".split()

_MOST_LINES = 500
_MOST_CLASS_LINES = 200


def _modules() -> Dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def _imports(name: str, tree: ast.AST) -> Iterator[Tuple[int, str]]:
    # (line, module inside the package) of each relative import, deferred ones too.
    package = name.split(".")[:-1]
    if name.rpartition(".")[2] == "__init__":
        package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield node.lineno, ".".join([*base, node.module])
            else:
                for alias in node.names:
                    yield node.lineno, ".".join([*base, alias.name])


def _room(module: str) -> str:
    return module.split(".")[0]


def _type_checking(tree: ast.Module) -> Set[int]:
    # Lines that only type checkers see.
    lines: Set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_imports_go_up_the_list_only() -> None:
    wrong: List[str] = []
    for name, tree in MODULES.items():
        room = _room(name)
        if name == "__init__":
            continue
        hidden = _type_checking(tree)
        for line, target in _imports(name, tree):
            used = _room(target) if target else ""
            if used not in ROOMS or line in hidden:
                continue
            if ROOMS.index(used) > ROOMS.index(room):
                wrong.append(f"{name}:{line} imports {target}")
    assert wrong == []


def test_every_module_has_a_room() -> None:
    rooms = {_room(name) for name in MODULES} - {"__init__"}
    assert rooms - set(ROOMS) == set()
    assert set(ROOMS) - rooms == set()


def test_no_circle_inside_a_room() -> None:
    edges: Dict[str, Set[str]] = {}
    for name, tree in MODULES.items():
        own = name[: -len(".__init__")] if name.endswith(".__init__") else name
        hidden = _type_checking(tree)
        deferred = {
            line
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        targets = {
            target
            for line, target in _imports(name, tree)
            if line not in hidden and line not in deferred
        }
        edges[own] = {t for t in targets if t != own}
    done: Set[str] = set()

    def visit(module: str, path: Tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join((*path, module))}"
        if module in done:
            return
        for target in sorted(edges.get(module, ())):
            if target in edges:
                visit(target, (*path, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_files_and_classes_stay_small() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}: {count} lines"
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > _MOST_LINES
    ]
    assert long == []
    large = [
        f"{name}.{node.name}: {size} lines"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > _MOST_CLASS_LINES
    ]
    assert large == []


def test_no_name_repeats_its_folder() -> None:
    repeated = [
        name
        for name in MODULES
        if "." in name
        for folder, stem in [name.split(".")[-2:]]
        if stem != "__init__" and stem.startswith(folder.rstrip("s")) and stem != "kpageflags"
    ]
    assert repeated == []


def test_one_file_knows_the_cache_of_a_program() -> None:
    users = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "cache"
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in ("prog", "prog_", "_prog")
    ]
    assert set(users) == {"machine.__init__"}
