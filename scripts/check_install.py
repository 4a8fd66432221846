# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build the package, and install it as users do, into clean environments
----------------------------------------------------------------------

On each Python from 3.9 on that is on this machine: the wheel with the oldest drgn and
with the newest, and on the first and the last Python the source distribution with the
oldest. Each checks the kernel that ships with the package, as the commands do that were
installed. Needs a package index and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.parser import Parser
from pathlib import Path
from typing import Dict, List, Tuple

from sources import tracked

ROOT = Path(__file__).parents[1]
OLDEST_DRGN = "drgn==0.2.0"
OLDEST, NEWEST = 9, 20  # minor versions of Python that are looked for
_AT_ONCE = 2
_LINK = re.compile(r"\]\(([^)\s]*)")


def call(*command: object, folder: Path = Path("/")) -> str:
    """
    Return what a command prints, which sees nothing of this checkout.

    :raises RuntimeError: with what it printed, if it fails.
    """
    clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        cwd=folder,
        env=clean,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}")
    return done.stdout


def build(folder: Path) -> Tuple[Path, Path]:
    """Return the source distribution of what is in version control, and the wheel made of it."""
    source = folder / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    code = "from setuptools.build_meta import build_sdist as b; import sys; b(sys.argv[1])"
    call(sys.executable, "-c", code, folder, folder=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def judge(sdist: Path, wheel: Path) -> List[str]:
    """Return what is wrong with what was built, a line each."""
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    wrong = [f"{sdist.name} lacks {name}" for name in tracked() if name not in there]
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (name for name in packed.namelist() if name.endswith("/METADATA"))
        text = packed.read(metadata).decode()
    description = Parser().parsestr(text).get_payload()
    assert isinstance(description, str)
    return wrong + [f"README links to {link}" for link in dead_links(description)]


def dead_links(description: str) -> List[str]:
    """Return the links of a page that lead neither to the web nor to a heading of it."""
    headings = re.findall(r"^#+ (.*)$", description, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}
    return [
        link
        for link in _LINK.findall(description)
        if not link.startswith(("https://", "http://")) and link not in anchors
    ]


def interpreters() -> Dict[str, Path]:
    """Return a Python of each version on this machine, by version."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [Path(sys.executable)]
    for minor in range(OLDEST, NEWEST):
        name = f"python3.{minor}"
        places += [Path(found)] if (found := shutil.which(name)) else []
        places += sorted(home.glob(f"versions/3.{minor}.*/bin/{name}"), reverse=True)
    known: Dict[str, Path] = {}
    for python in places:
        try:
            version = call(
                python, "-c", "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
            )
        except RuntimeError:  # a shim of a version that is not there, or a part of Python only
            continue
        known.setdefault(version.strip(), python)
    return dict(sorted(known.items(), key=lambda item: _minor(item[0])))


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def install(python: Path, folder: Path, first: Path, second: Path) -> List[str]:
    """Install one with the oldest drgn, then one with the newest; return what they answered."""
    call(python, "-m", "venv", folder)
    pip = (folder / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet")
    call(*pip, "--no-compile", first, OLDEST_DRGN)
    told = [f"{first.name}, {answers(folder)}"]
    call(*pip, "--no-compile", "--upgrade", "drgn")
    call(*pip, "--no-compile", "--force-reinstall", "--no-deps", second)
    return [*told, f"{second.name}, {answers(folder)}"]


def answers(folder: Path) -> str:
    """
    Ask the commands of an environment.

    :return: The version of drgn that they work with, and what they found.
    :raises RuntimeError: if one fails.
    """
    commands, reports = folder / "bin", folder / "reports"
    call(commands / "drgn-slabtype", "--version")
    code = "import drgn_slabtype, pathlib; print(pathlib.Path(drgn_slabtype.__file__).parent)"
    package = Path(call(commands / "python", "-c", code).strip())
    if folder not in package.parents:
        raise RuntimeError(f"{package} is not what was installed")
    (capture,) = (package / "captures").glob("*.xz")
    call(commands / "kernel-ci", reports, capture)
    report = json.loads((reports / "slab.json").read_text())
    code = (
        "from _drgn_util.plugins import call_plugins as c; import drgn, drgn.commands as d\n"
        "c('drgn_prog_set', drgn.Program()); print(drgn.__version__)\n"
        "assert 'slabcheck' in d.DEFAULT_COMMAND_NAMESPACE._commands"
    )
    version = call(commands / "python", "-c", code).strip()
    return f"drgn {version}: {report['outcome']}"


def run_by_pipx(folder: Path, wheel: Path) -> str:
    """Return what the program says when pipx runs it."""
    call(sys.executable, "-m", "venv", folder / "venv")
    call(folder / "venv" / "bin" / "pip", "install", "--quiet", "pipx")
    pipx = ("env", f"PIPX_HOME={folder}", folder / "venv" / "bin" / "pipx", "run")
    return call(*pipx, "--spec", wheel, "drgn-slabtype", "--version").splitlines()[-1]


def main() -> int:
    """Return the exit status: 1 if anything does not install, or does not work then."""
    started, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(_AT_ONCE) as pool:
        folder = Path(name)
        sdist, wheel = build(folder)
        wrong += judge(sdist, wheel)
        known = interpreters()
        jobs = {}
        for version, python in known.items():
            first = sdist if version in (min(known, key=_minor), max(known, key=_minor)) else wheel
            jobs[f"Python {version}"] = pool.submit(install, python, folder / version, first, wheel)
        by_pipx = pool.submit(run_by_pipx, folder / "pipx", wheel)
        for version, job in jobs.items():
            try:
                for line in job.result():
                    print(f"{version}: {line}")
            except RuntimeError as error:
                wrong.append(f"{version}: {error}")
        try:
            print(f"pipx run: {by_pipx.result()}")
        except RuntimeError as error:
            wrong.append(f"pipx: {error}")
    for line in wrong:
        print(line)
    print(f"installed {len(jobs)} times two in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
