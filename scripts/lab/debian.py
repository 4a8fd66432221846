# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Packages of other Debian suites, without touching the machine's own apt.

A second apt state lives in the cache. The archive's address is the one this
machine's own sources use, whatever mirror or proxy that is, and apt itself
checks the signatures with Debian's archive keyring.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from . import cache
from .architectures import HERE
from .errors import LabError
from .process import output, run, say

__all__ = ("Archive", "Package", "unpack")

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
_SUITES = (
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-backports",
    "forky",
    "sid",
)
_MAX_AGE_SECONDS = 7 * 24 * 3600


class Package(NamedTuple):
    """One version of a package in a suite."""

    name: str
    """Name of the package."""
    version: str
    """Its version."""
    suite: str
    """Suite that has it, as ``bookworm`` or ``bookworm-security``."""


def _machine_addresses() -> Dict[str, str]:
    # The address of the main and of the security archive in apt's own sources.
    addresses: Dict[str, str] = {}
    for line in output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)|$(LABEL)"]
    ).splitlines():
        address, _, origin = line.partition(" ")
        if origin in ("Debian|Debian", "Debian|Debian Backports"):
            addresses.setdefault("main", address)
        elif origin == "Debian|Debian-Security":
            addresses.setdefault("security", address)
    if "main" not in addresses:
        # No package lists yet: read the sources themselves.
        files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        for file in files:
            if not file.is_file():
                continue
            for address in re.findall(r"(?:https?|ftp|file|mirror\+\w+):/\S+", file.read_text()):
                path = address.rstrip("/")
                if path.endswith("/debian"):
                    addresses.setdefault("main", address)
                elif path.endswith("/debian-security"):
                    addresses.setdefault("security", address)
    if "main" not in addresses:
        raise LabError("apt on this machine has no source for the Debian archive")
    return addresses


class Archive:
    """
    The Debian archive, several suites at once.

    :param architecture: Debian's word for that of the packages.
    """

    def __init__(self, architecture: str = HERE) -> None:
        self._architecture = architecture
        suffix = "" if architecture == HERE else f"-{architecture}"
        self._folder = cache.root() / f"apt{suffix}"
        self._config = self._folder / "apt.conf"
        self._log = cache.log_file("apt")

    def of(self, architecture: str) -> Archive:
        """Return the same for packages of another architecture."""
        return self if architecture == self._architecture else Archive(architecture)

    def _env(self) -> Dict[str, str]:
        return {"APT_CONFIG": str(self._config)}

    def _write_configuration(self) -> None:
        keyring = next((path for path in _KEYRINGS if Path(path).exists()), None)
        if keyring is None:
            raise LabError("Debian's archive keyring is missing; install debian-archive-keyring")
        addresses = _machine_addresses()
        lines = []
        for suite in _SUITES:
            address = addresses.get("security" if suite.endswith("-security") else "main")
            if address is not None:
                lines.append(f"deb [signed-by={keyring}] {address} {suite} main\n")
        for name in ("state/lists/partial", "cache/archives/partial", "etc"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        (self._folder / "etc" / "sources.list").write_text("".join(lines))
        self._config.write_text(
            f'Dir::State "{self._folder}/state";\n'
            f'Dir::State::status "{self._folder}/status";\n'
            f'Dir::Cache "{self._folder}/cache";\n'
            f'Dir::Etc::SourceList "{self._folder}/etc/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\n'
            'Dir::Etc::Preferences "/dev/null";\n'
            'Dir::Etc::PreferencesParts "/dev/null";\n'
            'APT::Sandbox::User "root";\n'
            f'APT::Architecture "{self._architecture}";\n'
            f'APT::Architectures "{self._architecture}";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "3";\n'
        )

    @functools.cached_property
    def _packages(self) -> List[Package]:
        stamp = self._folder / "updated"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > _MAX_AGE_SECONDS:
            say("reading the package lists of Debian's suites")
            self._write_configuration()
            # A suite that moved away must not keep the others from working.
            try:
                run(["apt-get", "update"], log=self._log, env=self._env())
            except LabError as error:
                say(f"warning: {error}")
            stamp.touch()
        files = output(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(CODENAME) $(FILENAME)",
                "Created-By: Packages",
            ],
            env=self._env(),
        )
        packages = []
        for line in files.splitlines():
            suite, _, name = line.partition(" ")
            packages.extend(self._kernel_packages(suite, Path(name)))
        if not packages:
            stamp.unlink()
            raise LabError("the Debian archive could not be read; see the log of apt-get update")
        return packages

    def _kernel_packages(self, suite: str, file: Path) -> List[Package]:
        # Package lists may be stored compressed; apt-helper reads them all.
        text = output(["/usr/lib/apt/apt-helper", "cat-file", str(file)])
        found = re.findall(
            r"^Package: ((?:linux|qemu)-\S+|seabios)\n(?:\S.*\n| .*\n)*?Version: (\S+)$",
            text,
            re.MULTILINE,
        )
        return [Package(name, version, suite) for name, version in found]

    def newest(self, pattern: str, suites: Sequence[str]) -> Package:
        """
        Return the newest package whose whole name matches a pattern.

        :param suites: Suites to look in, the first one that has any wins.
        :raises LabError: if there is none.
        """
        return self.every(pattern, suites)[0]

    def every(self, pattern: str, suites: Sequence[str]) -> List[Package]:
        """
        Return all packages whose whole name matches a pattern.

        :param suites: Suites to look in, in their order.
        :return: Those of the first suite first, of each the newest first.
        :raises LabError: if there is none.
        """
        expression = re.compile(pattern)
        found = []
        for suite in suites:
            matching = [
                package
                for package in self._packages
                if package.suite == suite and expression.fullmatch(package.name)
            ]
            found += sorted(matching, key=functools.cmp_to_key(_compare), reverse=True)
        if not found:
            raise LabError(f"no package {pattern} in {', '.join(suites)}")
        return found

    def download(self, package: Package, folder: Path) -> Path:
        """
        Download one package.

        :return: The file, in the given folder.
        :raises LabError: if it cannot be had.
        """
        self._packages  # noqa: B018 - the lists must be there
        say(f"downloading {package.name} {package.version}")
        before = set(folder.glob("*.deb"))
        run(
            ["apt-get", "download", f"{package.name}={package.version}"],
            log=self._log,
            cwd=folder,
            env=self._env(),
        )
        new = set(folder.glob("*.deb")) - before
        if len(new) != 1:
            raise LabError(f"apt-get download gave no file for {package.name}")
        return new.pop()


def _compare(one: Package, other: Package) -> int:
    def later(first: str, second: str) -> bool:
        arguments = ["dpkg", "--compare-versions", first, "gt", second]
        return subprocess.run(arguments, check=False).returncode == 0

    return later(one.version, other.version) - later(other.version, one.version)


def unpack(package: Path, pattern: str, folder: Path, *, flat: bool = True) -> List[Path]:
    """
    Extract the files of a package whose paths match a pattern.

    :param pattern: Regular expression for the whole path, without ``./``.
    :param flat: Put all files right into the folder instead of keeping paths.
    :return: The files extracted.
    :raises LabError: if none matches.
    """
    expression = re.compile(pattern)
    files = []
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name[2:] if member.name.startswith("./") else member.name
                if not member.isfile() or not expression.fullmatch(name):
                    continue
                target = folder / (Path(name).name if flat else name)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None
                with target.open("wb") as stream:
                    while block := source.read(1 << 20):
                        stream.write(block)
                files.append(target)
    if not files:
        raise LabError(f"{package.name} has no file {pattern}")
    return files
