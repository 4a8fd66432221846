# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wheel, installed into a clean environment, is complete and found by drgn."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from check_install import dead_links
from sources import tracked

ROOT = Path(__file__).parents[2]


def call(*command: object) -> str:
    """Return what a command prints; its errors are shown if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from a copy of what is in version control."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in tracked():
        if not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    call(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
        *("--no-build-isolation", "--no-index", "--wheel-dir", folder, source),
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and the dependencies of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("clean")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Dependencies by a path, not by a .pth file of theirs: an editable install
    # of this package among them must not be what is tested.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "dependencies.pth").write_text("\n".join(dependencies))
    return python


def test_wheel_has_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {name for name in tracked() if name.startswith("drgn_slabtype/")}
    assert {name for name in modules if name.endswith(".py")}
    assert modules <= names
    assert "drgn_slabtype/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_description_on_a_package_index(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert dead_links(description) == []
    # In place of links there are the names of files, which the source distribution has.
    assert "`docs/json.md`" in description
    assert "](docs/json.md)" in (ROOT / "README.md").read_text()
    versions = {f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)}
    assert versions <= set(metadata.get_all("Classifier") or ())


def test_dead_links_are_found() -> None:
    page = "# A b: c\n[x](#a-b-c) [y](#d) [z](docs/z.md) [w](https://example.org/)\n"
    assert dead_links(page) == ["#d", "docs/z.md"]


def test_commands_are_installed(python: Path) -> None:
    code = (
        "from importlib.metadata import distribution\n"
        "for one in distribution('drgn-slabtype').entry_points:\n"
        "    print(one.name, callable(one.load()) or one.group)\n"
    )
    assert sorted(call(python, "-c", code).splitlines()) == [
        "drgn-slabtype True",
        "kernel-ci True",
        "slabtype drgn.plugins",
    ]


def test_wheel_is_what_is_imported(python: Path) -> None:
    path = call(python, "-c", "import drgn_slabtype; print(drgn_slabtype.__file__)")
    assert path.startswith(str(python.parents[1]))


def test_drgn_finds_the_plugin(python: Path) -> None:
    code = (
        "import drgn, drgn.commands as c\n"
        "from _drgn_util.plugins import call_plugins\n"
        "call_plugins('drgn_prog_set', drgn.Program())\n"
        "print(sorted(n for n in c.DEFAULT_COMMAND_NAMESPACE._commands if 'slab' in n))\n"
        "import drgn_slabtype.plugin as p; print(p.__file__)\n"
    )
    commands, path = call(python, "-c", code).splitlines()
    assert "slabcheck" in commands
    assert "slablayout" in commands
    assert path.startswith(str(python.parents[1]))


def test_module_runs_as_a_program(python: Path) -> None:
    text = call(python, "-m", "drgn_slabtype", "decode", "0xffeffffa", "--layout", "rfc-v3")
    assert "slab; active 5" in text
