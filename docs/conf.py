# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How the pages are built; scripts/docs.py does it.

The source is the whole checkout, so that links are the same here and wherever
else the files are read: README.md is the first page.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Dict, Iterator, List, get_type_hints

import drgn_slabtype

project = "drgn-slabtype"
version = release = drgn_slabtype.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [".*", "build", "dist", "drgn_slabtype", "scripts", "tests"]
myst_heading_anchors = 4

templates_path = [os.path.relpath(os.path.join(os.path.dirname(__file__), "templates"))]
html_additional_pages = {"index": "index.html"}
html_theme = "furo"
html_title = project
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"

CONTENTS = {
    "Who you are": ["docs/prompt", "docs/scripts", "docs/ci"],
    "What to type": ["docs/commands", "docs/questions", "docs/watch", "docs/fleet"],
    "What it says": ["docs/findings", "docs/json", "docs/pages", "docs/api"],
    "What it knows": ["docs/invariants", "docs/slab", "docs/moving"],
    "What was tried": [
        *("docs/matrix", "docs/mutations", "docs/kernel-tests", "docs/soak", "docs/performance"),
    ],
    "How to change it": ["CONTRIBUTING", "docs/architecture", "CHANGELOG"],
}
"""The pages under their headings; one that is missing here is an error."""


def _contents() -> Iterator[str]:
    for caption, pages in CONTENTS.items():
        yield f'```{{toctree}}\n:hidden:\n:caption: "{caption}"\n'
        yield from (f"/{page}" for page in pages)
        yield "```"


def _public_names() -> Iterator[str]:
    # By the module that has them, under the heading of its docstring.
    by_module: Dict[str, List[str]] = {}
    for name, module in drgn_slabtype._NAMES.items():
        by_module.setdefault(module, []).append(name)
    for module, names in sorted(by_module.items(), key=lambda item: _heading(item[0])):
        yield f"## {_heading(module)}\n\n```{{eval-rst}}"
        for name in names:
            found = getattr(drgn_slabtype, name)
            if isinstance(found, type):
                # Of what annotations say, the types.
                found.__annotations__ = get_type_hints(found)
                yield f".. autoclass:: drgn_slabtype.{name}\n   :members:\n"
            elif callable(found):
                yield f".. autofunction:: drgn_slabtype.{name}\n"
            else:
                yield f".. autodata:: drgn_slabtype{module}.{name}\n   :no-value:\n"
        yield "```\n"


def _heading(module: str) -> str:
    text = import_module(module, "drgn_slabtype").__doc__ or module
    return text.strip().splitlines()[0].rstrip(".")


def _add(app: Any, page: str, source: List[str]) -> None:
    if page == root_doc:
        source[0] += "\n" + "\n".join(_contents())
    elif page == "docs/api":
        source[0] += "\n" + "\n".join(_public_names())


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add)
