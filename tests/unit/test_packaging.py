# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wheel, installed into a clean environment, is complete and found by drgn."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*command: object) -> str:
    """Return what a command prints; its errors are shown if it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from a copy of what is in version control."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = call("git", "-C", ROOT, "ls-files", "-z", "--cached").split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
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
    for module in (ROOT / "drgn_slabtype").rglob("*.py"):
        tracked = call("git", "-C", ROOT, "ls-files", module.relative_to(ROOT))
        assert not tracked or str(module.relative_to(ROOT)) in names
    assert "drgn_slabtype/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


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
