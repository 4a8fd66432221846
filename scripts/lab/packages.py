# SPDX-License-Identifier: LGPL-2.1-or-later

"""Debian packages that the lab needs on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import List, Sequence

from .errors import LabError, MissingToolError
from .process import output, run, say

__all__ = ("BUILD_PACKAGES", "install")

BUILD_PACKAGES = ("build-essential", "bison", "flex", "bc", "libelf-dev", "xz-utils", "tar")
"""What building a kernel needs on Debian."""


def _missing(packages: Sequence[str]) -> List[str]:
    missing = []
    for package in packages:
        try:
            status = output(["dpkg-query", "-W", "-f", "${Status}", package])
        except MissingToolError:
            raise MissingToolError("this is not a Debian machine: dpkg-query is missing") from None
        except LabError:
            status = ""
        if not status.endswith(" installed"):
            missing.append(package)
    return missing


def install(packages: Sequence[str], *, log: Path) -> None:
    """
    Install the Debian packages that are missing.

    :raises MissingToolError: if some are missing and this user cannot install them.
    """
    missing = _missing(packages)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingToolError(f"missing packages; as root run: {' '.join(command)}")
    say(f"installing {' '.join(missing)}")
    noninteractive = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(command, log=log, env=noninteractive)
    except LabError:
        # The machine's package lists may be missing or old.
        run(["apt-get", "update"], log=log)
        run(command, log=log, env=noninteractive)
