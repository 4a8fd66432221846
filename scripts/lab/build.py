# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Build kernels from Debian's source packages.

One work tree for each source package: its sources are switched from variant to
variant by writing only the files that differ, so that make rebuilds only what
depends on them. The tree is dropped when nothing else waits to be built.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Dict, List

from . import cache, pagetypes
from .architectures import HERE
from .debian import Archive, Package, unpack
from .edits import SourceTree
from .errors import LabError
from .kernels import Built, Kernel
from .packages import BUILD_PACKAGES, install
from .process import output, run, say

__all__ = ("build", "drop_tree", "drop_trees", "recipe")

_CONFIGS = Path(__file__).with_name("configs")
_BREAKER = Path(__file__).with_name("breaker") / "module"

# Options without which a kernel is of no use here.
_REQUIRED = ("SMP", "NUMA", "PROC_PAGE_MONITOR", "PROC_KCORE", "FW_CFG_SYSFS", "DEBUG_INFO_DWARF4")


def _fragments(kernel: Kernel) -> List[Path]:
    assert isinstance(kernel.origin, Built)
    here = () if kernel.architecture == HERE else (kernel.architecture,)
    return [_CONFIGS / f"{name}.config" for name in ("guest", *here, *kernel.origin.fragments)]


def recipe(kernel: Kernel) -> str:
    """Return the key of everything in this repository that a built kernel depends on."""
    origin = kernel.origin
    assert isinstance(origin, Built)
    breaker = sorted(_BREAKER.iterdir()) if origin.breaker else []
    # What is said beside the options does not matter.
    options = [_options(fragment.read_text()) for fragment in _fragments(kernel)]
    if origin.edit is None:
        return cache.key(2, origin.source, options, *breaker)
    # The edits as Python understands them: comments and layout do not matter.
    own = Path(inspect.getfile(origin.edit))
    edits = [
        ast.unparse(ast.parse(file.read_text(encoding="utf-8")))
        for file in (own, own.with_name("edits.py"))
    ]
    return cache.key(2, origin.source, origin.edit.__name__, options, *edits, *breaker)


def _work_folder(package: str, version: str) -> Path:
    return cache.root() / "trees" / f"{package}-{version}"


def drop_tree(package: str, version: str) -> None:
    """Delete the sources and objects of a source package."""
    _drop(_work_folder(package, version))


def drop_trees() -> None:
    """Delete the sources and objects of all of them, when no build runs any more."""
    for folder in (cache.root() / "trees").glob("*"):
        say(f"deleting {folder}")
        _drop(folder)


def _drop(folder: Path) -> None:
    with cache.lock("build"):
        # Out of the way first: half a tree, left by whoever was stopped here,
        # would be built from.
        rubbish = folder.with_name(f"{folder.name}.dropped")
        shutil.rmtree(rubbish, ignore_errors=True)
        if folder.exists():
            folder.rename(rubbish)
            shutil.rmtree(rubbish, ignore_errors=True)


def _sources(archive: Archive, package: Package) -> Path:
    # Sources as packaged (pristine), and the tree that is built, which starts
    # as hard links to them.
    work = _work_folder(package.name, package.version)
    if not (work / "pristine").exists():
        log = cache.log_file("sources")
        with cache.entry(work) as folder:
            file = archive.download(package, folder)
            tarball = unpack(file, rf"usr/src/{package.name}\.tar\.xz", folder)[0]
            file.unlink()
            say(f"unpacking {package.name}")
            (folder / "pristine").mkdir()
            run(
                [
                    "tar",
                    "-xf",
                    str(tarball),
                    "--strip-components=1",
                    "-C",
                    str(folder / "pristine"),
                ],
                log=log,
            )
            tarball.unlink()
            run(["cp", "-al", str(folder / "pristine"), str(folder / "linux")], log=log)
    return work


class _SwitchedTree(SourceTree):
    """A tree whose edits start from the pristine file, whatever was applied before."""

    def __init__(self, pristine: Path, scratch: Path) -> None:
        super().__init__(scratch)
        self._pristine = pristine
        self.edited: List[str] = []

    def substitute(self, path: str, pattern: str, replacement: str, *, count: int = 1) -> None:
        file = self.root / path
        if not file.exists() and (self._pristine / path).exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._pristine / path, file)
            self.edited.append(path)
        super().substitute(path, pattern, replacement, count=count)


def _switch(work: Path, origin: Built) -> None:
    # Give every file that an edit changes, now or before, the contents it has
    # in this variant; touch no other.
    scratch = work / "edited"
    shutil.rmtree(scratch, ignore_errors=True)
    tree = _SwitchedTree(work / "pristine", scratch)
    if origin.edit is not None:
        origin.edit(tree)
    record = work / "edited-files"
    before = set(record.read_text().split()) if record.exists() else set()
    for path in before | set(tree.edited):
        source = scratch / path if path in tree.edited else work / "pristine" / path
        target = work / "linux" / path
        contents = source.read_bytes()
        if target.read_bytes() != contents:
            target.unlink()
            target.write_bytes(contents)
    record.write_text("\n".join(sorted(tree.edited)))


def _options(text: str) -> Dict[str, str]:
    options = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"CONFIG_(\w+)=(.*)", line):
            options[match.group(1)] = match.group(2)
        elif match := re.fullmatch(r"# CONFIG_(\w+) is not set", line):
            options[match.group(1)] = "n"
    return options


def _configure(kernel: Kernel, config: Path, make: List[str], log: Path) -> None:
    wanted: Dict[str, str] = {}
    for fragment in _fragments(kernel):
        wanted.update(_options(fragment.read_text()))
    config.unlink(missing_ok=True)
    run([*make, "tinyconfig"], log=log)
    options = {**_options(config.read_text()), **wanted}
    config.write_text(
        "".join(
            f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"
            for name, value in options.items()
        )
    )
    run([*make, "olddefconfig"], log=log)
    got = _options(config.read_text())
    lost = [
        name
        for fragment in _fragments(kernel)[1:]
        for name in _options(fragment.read_text())
        if got.get(name, "n") != wanted[name]
    ]
    lost += [name for name in _REQUIRED if got.get(name, "n") != wanted.get(name, "y")]
    if lost:
        raise LabError(f"the config did not take {', '.join(sorted(set(lost)))}")


def _build_modules(make: List[str], objects: Path, folder: Path, log: Path) -> None:
    # The kernel's own, of which there are few, and the one that breaks things.
    breaker = objects / "breaker"
    shutil.rmtree(breaker, ignore_errors=True)
    shutil.copytree(_BREAKER, breaker)
    run([*make, f"-j{os.cpu_count() or 2}", "modules"], log=log)
    run([*make, f"M={breaker}", "modules"], log=log)
    folder.mkdir()
    for file in objects.rglob("*.ko"):
        shutil.copyfile(file, folder / file.name)


def build(kernel: Kernel, archive: Archive, folder: Path) -> Dict[str, str]:
    """
    Build a kernel into a folder of the cache.

    :param folder: Gets ``vmlinux``, ``vmlinuz`` and ``config``.
    :return: What to remember of it: ``release``, ``package``, ``version``.
    :raises LabError: if something does not work.
    """
    origin, machine = kernel.origin, kernel.machine
    assert isinstance(origin, Built)
    log = cache.log_file(f"build-{kernel.name}")
    install((*BUILD_PACKAGES, *machine.packages, *kernel.tools), log=log)
    package = archive.newest(origin.package, origin.suites)
    with cache.lock("build"):
        work = _sources(archive, package)
        pagetypes.make(work / "pristine")
        _switch(work, origin)
        objects = work / ("objects" if not machine.make else f"objects-{machine.name}")
        objects.mkdir(exist_ok=True)
        make = [
            "nice",
            "-n",
            "10",
            "make",
            "-C",
            str(work / "linux"),
            f"O={objects}",
            *machine.make,
            f"KCFLAGS=-fdebug-prefix-map={work}/linux=. -fdebug-prefix-map={objects}=.",
            "KBUILD_BUILD_TIMESTAMP=2024-01-01 00:00:00 +0000",
            "KBUILD_BUILD_USER=lab",
            "KBUILD_BUILD_HOST=lab",
            "KBUILD_BUILD_VERSION=1",
            f"LOCALVERSION=-{kernel.name.replace('.', '_')}",
        ]
        _configure(kernel, objects / ".config", make, log)
        say(f"building {kernel.name} ({package.version}), about 6 minutes on 2 idle cores")
        image = objects / machine.image
        run([*make, f"-j{os.cpu_count() or 2}", "vmlinux", image.name], log=log)
        if origin.breaker:
            _build_modules(make, objects, folder / "modules", log)
        say(f"built {kernel.name}")
        shutil.copyfile(objects / "vmlinux", folder / "vmlinux")
        shutil.copyfile(image, folder / "vmlinuz")
        shutil.copyfile(objects / ".config", folder / "config")
        release = output(["cat", str(objects / "include" / "config" / "kernel.release")]).strip()
    return {"release": release, "package": package.name, "version": package.version}
