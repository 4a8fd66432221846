# SPDX-License-Identifier: LGPL-2.1-or-later
"""What --drgn prints: every option is in it, and every public name is there."""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

import pytest

import drgn_slabtype
from drgn_slabtype import cli
from drgn_slabtype.command import Command, Once, Option
from drgn_slabtype.commands import COMMANDS

_VALUES = {
    "CACHE": "kmalloc-64",
    "NAME": "kmalloc-64",
    "ADDRESS": "ffff888000041000",
    "ADDRESS|PFN": "403",
    "ADDRESS[+SIZE]": "ffff888000041000+8",
    "WORD": "6b6b6b6b6b6b6b6b",
    "CODE": "redzone",
    "TYPE": "slab",
    "FLAG": "slab",
    "NODE": "7",
    "CPU": "7",
    "FIRST-LAST": "0x10-0x20",
    "SECONDS": "7",
    "N": "7",
    "FILE": "made-up",
    "FORMAT=FILE": "json=made-up",
    "PATH": "made-up",
    "FOLDER": "made-up",
    "SIZE": "7G",
    "VALUE": "4293918714",
    "A": "before",
    "B": "after",
}


def _positional(command: Command) -> List[str]:
    return [
        _VALUES[option.settings["metavar"]]
        for option in command.options
        if not option.flags[0].startswith("-") and "nargs" not in option.settings
    ]


def _given(option: Option) -> List[str]:
    settings = option.settings
    if settings.get("action", "store") in ("store", "append", Once):
        if "choices" in settings:
            other = next(c for c in settings["choices"] if c != settings.get("default"))
            return [option.flags[0], other]
        return [option.flags[0], _VALUES[settings["metavar"]]]
    return [option.flags[0]]


def _options() -> Iterator[Tuple[Command, Option]]:
    for command in COMMANDS:
        if command.drgn is not None:
            for option in command.options:
                yield command, option


def _code(command: Command, *given: str) -> str:
    assert command.drgn is not None
    needed: List[str] = []
    for option in command.options:
        if option.settings.get("required") and option.flags[0] not in given:
            needed += [option.flags[0], "needed"]
        if option.settings.get("nargs") == "+":
            given = (*given, "some")
    args = cli._parser().parse_args([command.name, *needed, *given])
    code: str = command.drgn(args)
    compile(code, command.name, "exec")
    return code


@pytest.mark.parametrize(
    ("command", "option"),
    list(_options()),
    ids=lambda one: one.name if isinstance(one, Command) else one.flags[0],
)
def test_every_option_is_in_the_code(command: Command, option: Option) -> None:
    required = _positional(command)
    if not option.flags[0].startswith("-"):
        nargs = "nargs" in option.settings
        given = [*required, _VALUES[option.settings["metavar"]]] if nargs else required
        told = _code(command, *given)
        # As text, or as the number that it is.
        text = given[-1] if nargs else given[required.index(_VALUES[option.settings["metavar"]])]
        number = f"{int(text):#x}" if text.isdigit() else text.partition("+")[0]
        assert text in told or number in told
        return
    some = ["kmalloc-64"] if command.name == "stacks" else required
    assert _code(command, *some) != _code(command, *some, *_given(option))


def test_symbols_are_addresses_in_the_code() -> None:
    assert 'prog.symbol("init_task")' in _code(_command("page"), "init_task").replace("'", '"')


def _command(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


@pytest.mark.parametrize("name", drgn_slabtype.__all__)
def test_public_names_are_there(name: str) -> None:
    found: Any = getattr(drgn_slabtype, name)
    assert found is not None
