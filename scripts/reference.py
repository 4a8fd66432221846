# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/commands.md, made from the table of commands and the options of a target."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Sequence, Tuple

from drgn_slabtype.cli import _add_target_options
from drgn_slabtype.commands import COMMANDS, Command

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

INTRODUCTION = """\
# Commands

Both forms of a command take the same options, and give the same answer. `-h` prints what stands
here; `--drgn` prints the Python code that does the same; at the drgn prompt `_` has the records.

Names of caches may be those of caches that were merged into others, and patterns where several
will do. A symbol, or `symbol+0x10`, stands wherever an address does. Of bare numbers, digits alone
are decimal, but 16 of them hexadecimal, as in tables.

`page` and `check ADDRESS` read the slab at the address and what could hold its objects; the whole
machine is read only where anything speaks against what these show.

This page is written by `scripts/readme.py`, from the texts of `-h`.
"""

TARGET = """\
## Target

In the shell, a command that reads a kernel takes these, spelled as drgn spells them; without any
of them it reads the running kernel. With `-k` the process steps back behind others (nice 10).
"""

_Row = Tuple[str, str]


def page() -> str:
    """Return what docs/commands.md has to be."""
    return "\n".join(
        [
            INTRODUCTION,
            *_table(("shell", "drgn prompt", ""), _overview()),
            TARGET,
            *_table(("option", ""), _target()),
            *(line for command in COMMANDS for line in _section(command)),
        ]
    )


def _overview() -> Iterator[Sequence[str]]:
    for command in COMMANDS:
        prompt = f"`%{command.prompt}`" if command.prompt else ""
        name = f"[`{command.name}`](#{command.name.replace(' ', '-')})"
        yield name, prompt, command.description


def _target() -> Iterator[_Row]:
    parser = argparse.ArgumentParser(add_help=False)
    _add_target_options(parser)
    for action in parser._actions:  # what argparse has no public name for
        settings = {"metavar": action.metavar, "help": action.help}
        yield _row(action.option_strings, {**settings, "flag": action.nargs == 0})


def _section(command: Command) -> Iterator[str]:
    yield f"## {command.name}\n"
    prompt = f" At the drgn prompt: `%{command.prompt}`." if command.prompt else ""
    yield f"{command.description[0].upper()}{command.description[1:]}.{prompt}\n"
    options = [_row(flags, settings) for flags, settings in command.all_options()]
    yield from _table(("option", ""), options)


def _row(flags: Sequence[str], settings: Mapping[str, Any]) -> _Row:
    if settings.get("flag") or settings.get("action") in ("store_true", "store_false"):
        value = ""
    else:
        value = settings.get("metavar") or "|".join(map(str, settings.get("choices", ())))
    if not flags[0].startswith("-"):
        spelled = f"`{value}`"
    else:
        spelled = ", ".join(f"`{flag} {value}`" if value else f"`{flag}`" for flag in flags)
    return spelled.replace("|", "\\|"), _escaped(settings["help"])


def _escaped(text: str) -> str:
    # Of Markdown, what help texts have: patterns, and words in capitals between brackets.
    return re.sub(r"([*_|<>\[\]])", r"\\\1", text.replace("%%", "%"))


def _table(head: Sequence[str], rows: Any) -> List[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""]
