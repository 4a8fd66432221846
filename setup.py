# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pyproject.toml cannot say: README.md for a package index, where no file is beside it."""

import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)]*)\)")


def _without_files(match: "re.Match[str]") -> str:
    # A file that a link leads to is in the source distribution, under its name.
    text, path = match.groups()
    return f"`{path}`" if text in (path, f"`{path}`") else f"{text} (`{path}`)"


setup(
    long_description=_LINK.sub(
        _without_files, (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    ),
    long_description_content_type="text/markdown",
)
