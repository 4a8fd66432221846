# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Presentation of records
-----------------------

One module per format; in each, the function that presents what a command
returns has the command's name. They return text and write nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Iterator, Optional, Union

Text = Union[str, Iterator[str]]
"""Text, or long text piece by piece, made as it is written."""

_MODULES = {"table": ".text", "json": ".json", "junit": ".junit"}


def renderer(format: str) -> Any:
    """Return the module of a format."""
    return import_module(_MODULES[format], __name__)


def present(command: str, records: Any, format: str, width: Optional[int] = None) -> Text:
    """
    Return the records of a command as text.

    :param command: Name of the command that returned them.
    :param format: ``table``, ``json`` or ``junit``.
    :param width: Characters that tables may be wide; ``None``: as many as they need.
    """
    if format == "table":
        from .text.lines import WIDTH

        WIDTH.set(width)
    text: Text = getattr(renderer(format), command)(records)
    return text
