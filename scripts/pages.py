# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build the pages of README.md and docs/, and look for dead links in what was built.

usage: python scripts/pages.py [FOLDER]

Only links to other pages and to places in pages are followed, none into the
network. The exit status is 1 if one leads nowhere, or if Sphinx complains.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Dict, Iterator, List, Set
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]


class _Page(HTMLParser):
    # Where a page leads, and the places in it that others can lead to.

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: List[str] = []
        self.places: Set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        for name, value in attrs:  # type: ignore[attr-defined]
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def dead_links(folder: Path) -> Iterator[str]:
    """Yield a line for each link in the pages of a folder that leads nowhere."""
    pages = {path.resolve(): _Page(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            wrong = _wrong(pages, path, link)
            if wrong:
                yield f"{path.relative_to(folder.resolve())}: {link}: {wrong}"


def _wrong(pages: Dict[Path, _Page], path: Path, link: str) -> str:
    where = urlsplit(link)
    if where.scheme or where.netloc:
        return ""
    target = (path.parent / unquote(where.path)).resolve() if where.path else path
    if not target.exists():
        return "no such file"
    if target in pages and unquote(where.fragment) not in pages[target].places:
        return "no such place in it"
    return ""


def build(source: Path, folder: Path) -> bool:
    """Make the pages of a checkout, and tell whether Sphinx had nothing to say against them."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-E"]
    command += ["-c", str(source / "docs"), "-d", str(folder / ".doctrees")]
    done = subprocess.run([*command, str(source), str(folder)], cwd=source, check=False)
    return done.returncode == 0


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="build the pages of README.md and docs/")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "docs")
    folder: Path = parser.parse_args().folder
    good = build(ROOT, folder)
    dead = list(dead_links(folder))
    print(*(f"dead link in {line}" for line in dead), sep="\n", end="\n" if dead else "")
    if not good or dead:
        return 1
    print(f"pages are in {folder}; the first is README.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
