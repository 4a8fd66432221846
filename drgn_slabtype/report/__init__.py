# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Presentation of records
-----------------------

One module per format; in each, the function that presents what a command
returns has the command's name. They return text and write nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Callable, Iterator, Optional, Union

Text = Union[str, Iterator[str]]
"""Text, or long text piece by piece, made as it is written."""

_MODULES = {
    "table": ".text",
    "json": ".json",
    "junit": ".junit",
    "github": ".github",
    "gitlab": ".gitlab",
}


def renderer(format: str) -> Any:
    """Return the module of a format."""
    return import_module(_MODULES[format], __name__)


def failure(format: str, message: str) -> Optional[str]:
    """
    Return a document that says why there is no report; ``None`` in formats for people.

    :param format: ``junit``, ``github`` and ``gitlab`` have such documents.
    """
    told: Optional[Callable[[str], str]] = getattr(renderer(format), "failure", None)
    return None if told is None else told(message)


def present(command: str, records: Any, format: str, width: Optional[int] = None) -> Text:
    """
    Return the records of a command as text.

    :param command: Name of the command that returned them.
    :param format: ``table``, ``json``, ``junit``, ``github`` or ``gitlab``.
    :param width: Characters that lines may be wide; ``None``: as many as they need.
    """
    function: Callable[[Any], Text] = getattr(renderer(format), command)
    if format != "table":
        return function(records)
    from .text.lines import each_within, within

    text = within(width, lambda: function(records))
    return text if isinstance(text, str) else each_within(width, text)


# Of the answers that functions of this package give, what the command is called.
_COMMANDS = {
    "Act": "demo",
    "AddressInfo": "object",
    "CachesAnswer": "caches",
    "CaptureSummary": "capture",
    "Census": "pages",
    "Decoded": "decode",
    "Difference": "diff",
    "Explanations": "explain",
    "Fleet": "fleet",
    "KindsAnswer": "stacks",
    "Objects": "objects",
    "OwnersAnswer": "owners",
    "PageInfo": "page",
    "PageTypeLayout": "layout",
    "References": "refs",
    "Report": "check",
    "Round": "watch",
    "Site": "stacks",
    "SlabsAnswer": "slabs",
    "StacksAnswer": "stacks",
    "Word": "what",
}


def as_json(answer: Any) -> str:
    """
    Return an answer as the command that gives it writes it with ``--format json``.

    >>> import json
    >>> json.loads(as_json(caches(prog, "dentry")))["caches"][0]["name"]
    'dentry'

    :param answer: What a function of this package returned that has the name of a command, or is
        named by ``--drgn``; one round of :func:`~drgn_slabtype.watch`.
    :return: The document, with a line break at its end.
    :raises ArgumentError: if it is none of these.
    """
    from ..arguments import shown
    from ..errors import ArgumentError

    several = answer if isinstance(answer, list) else [answer]
    name = _COMMANDS.get(type(several[0]).__name__) if several else None
    if name is None:
        raise ArgumentError(f"{shown(answer)} is no answer of a command")
    text = present(name, several if name in ("decode", "demo", "watch") else answer, "json")
    return text if isinstance(text, str) else "".join(text)
