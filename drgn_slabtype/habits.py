# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Words that users have already
-----------------------------

What stands here for a command of crash, and for one that is spelled almost right.
Imported into every drgn program of its users: it imports nothing.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

CRASH = ("kmem", "search")
"""Commands of crash that are about what this program is about."""

# Of kmem: what stands for an option alone, and for one with names or addresses.
_KMEM = {
    "-s": ("caches", "caches"),
    "-S": ("caches", "slabs"),
    "-p": ("pages", "page"),
    "-i": ("pages", "pages"),
    "-f": ("pages -t buddy -l", "page"),
}
_TAKES = ("-I", "-m")  # with a value of their own
_ADDRESS = re.compile("0x[0-9a-fA-F]+|[0-9a-fA-F]{9,}")


class Meant(NamedTuple):
    """A command of this program."""

    name: str
    rest: Tuple[str, ...] = ()

    def spelled(self, name: Optional[str] = None) -> str:
        """Return it as it is typed, with another name for it if one is given."""
        return " ".join((name or self.name, *self.rest))


def of_crash(words: Sequence[str]) -> Optional[Meant]:
    """
    Return what stands for a command of crash; ``None`` if it is none, or nothing does.

    >>> of_crash(["kmem", "-s", "dentry"])
    Meant(name='caches', rest=('dentry',))

    :param words: ``kmem``, its options and arguments; ``search`` and the like.
    """
    if not words or words[0] not in CRASH:
        return None
    options, arguments = _split(words[1:])
    addresses = [one for one in arguments if _ADDRESS.fullmatch(one)]
    if words[0] == "search":
        return Meant("refs", tuple(arguments[-1:])) if arguments else None
    option = next((one for one in options if one in _KMEM), None)
    if addresses and option not in ("-p", "-f"):
        return Meant("object", tuple(addresses[:1]))
    if option is None:
        # Names alone are no arguments of kmem; -I alone leaves out what is damaged.
        return Meant("caches") if "-I" in options else None
    name, *more = _KMEM[option][bool(arguments)].split()
    takes = arguments if name == "caches" else arguments[:1]
    return Meant(name, (*more, *takes))


def standing_for(word: str) -> List[str]:
    """Return the commands of this program that stand for one of crash."""
    if word != "kmem":
        return ["refs"]
    every = [name.split()[0] for pair in _KMEM.values() for name in pair]
    return list(dict.fromkeys([*every, "object"]))


def _split(words: Sequence[str]) -> Tuple[List[str], List[str]]:
    options: List[str] = []
    arguments: List[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            # "-sI" is "-s -I".
            options += [f"-{letter}" for letter in word[1:]]
            skip = options[-1:] != [] and options[-1] in _TAKES
        else:
            arguments.append(word)
    return options, arguments
