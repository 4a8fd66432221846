# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Known causes
------------

A file that users keep: signatures, each with a name and a text.

::

    [[cause]]
    name = "foo: writes past its name"
    text = "Fixed by 0123456789ab (\"foo: mind the end\"), in 6.1.90."
    code = "redzone"
    cache = "kmalloc-*"
    written = "text"
    allocated = "foo_open"

A cause names what it knows of a signature: its ``id``, or members of it with
patterns as the shell has them. All that it names must fit one finding.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, List, Mapping, Sequence, Tuple

from ..arguments import path_of, require, several
from ..errors import TargetError
from ..findings import Finding, Likeness
from ..signature import Signature

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MEMBERS = {"id", *(field.name for field in fields(Signature))}
_LISTS = {"allocated", "freed", "before"}


@dataclass(frozen=True)
class Cause:
    """What has been found out about some damage."""

    name: str
    text: str
    wanted: Mapping[str, Tuple[str, ...]]
    """Patterns by member of the signature; of functions, each must fit one."""

    def fits(self, signature: Signature) -> bool:
        """Return whether a signature is that of this cause."""
        return all(_fits(getattr(signature, name), some) for name, some in self.wanted.items())

    def as_toml(self) -> str:
        """Return the lines that say this in a file of causes."""
        lines = ["[[cause]]", f"name = {quoted(self.name)}", f"text = {quoted(self.text)}"]
        for name, some in self.wanted.items():
            told = list(map(quoted, some))
            lines.append(f"{name} = " + (f"[{', '.join(told)}]" if name in _LISTS else told[0]))
        return "\n".join([*lines, ""])


def _fits(here: Any, patterns: Sequence[str]) -> bool:
    told = here if isinstance(here, tuple) else (here,)
    texts = [str(one) for one in told if one is not None]
    return all(any(fnmatchcase(text, pattern) for text in texts) for pattern in patterns)


def read_causes(path: str) -> List[Cause]:
    """
    Return the causes that a file holds.

    >>> with open("causes.toml", "w") as file:
    ...     print('cause = [{name = "foo: double free", code = "freelist-*"}]', file=file)
    >>> for cause in read_causes("causes.toml"):
    ...     print(cause.name, dict(cause.wanted))
    foo: double free {'code': ('freelist-*',)}

    :param path: A file in TOML, as docs/fleet.md describes it.
    :raises ArgumentError: if *path* is no path.
    :raises TargetError: if it cannot be read or makes no sense; its message is one line.
    """
    path = path_of("path", path)
    try:
        with open(path, "rb") as file:
            told = tomllib.load(file)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TargetError(f"{path}: not TOML: {error}") from None
    causes = told.pop("cause", [])
    if told or not isinstance(causes, list):
        raise TargetError(f"{path}: each cause begins with [[cause]], and nothing else is known")
    return [_cause(path, number, one) for number, one in enumerate(causes, 1)]


def _cause(path: str, number: int, told: Any) -> Cause:
    where = f"{path}: cause {number}"
    if not isinstance(told, dict):
        raise TargetError(f"{where}: is no table")
    name, text = told.pop("name", None), told.pop("text", "")
    if not isinstance(name, str) or not isinstance(text, str) or not name:
        raise TargetError(f"{where}: needs a name, and text may be text only")
    unknown = sorted(set(told) - _MEMBERS)
    if unknown:
        raise TargetError(
            f"{where} ({name}): no signature has {', '.join(unknown)}; "
            f"it has {', '.join(sorted(_MEMBERS))}"
        )
    if not told:
        raise TargetError(f"{where} ({name}): says nothing of a signature, which fits all")
    return Cause(name, text, {key: _patterns(where, key, here) for key, here in told.items()})


def _patterns(where: str, key: str, here: Any) -> Tuple[str, ...]:
    some = here if isinstance(here, list) and key in _LISTS else [here]
    if not some or not all(type(one) in (str, int) for one in some):
        raise TargetError(f"{where}: {key} is a text" + (" or texts" if key in _LISTS else ""))
    return tuple(map(str, some))


def likenesses(causes: Sequence[Cause], findings: Sequence[Finding]) -> Tuple[Likeness, ...]:
    """
    Return the causes that some findings look like, each with these findings.

    >>> likenesses([], check(prog).findings)
    ()

    :param causes: What :func:`read_causes` returned.
    :param findings: Of a report.
    :raises ArgumentError: if that is something else.
    """
    told = []
    for what, given, wanted in (("causes", causes, Cause), ("findings", findings, Finding)):
        for one in several(given):
            require(f"one of {what}", one, wanted)
    for cause in causes:
        some = tuple(
            finding.id
            for finding in findings
            if finding.signature is not None and cause.fits(finding.signature)
        )
        if some:
            told.append(Likeness(cause.name, cause.text, some))
    return tuple(told)


def as_toml(signature: Signature) -> str:
    """Return the lines that a cause of a signature needs in such a file."""
    lines = ["[[cause]]", 'name = ""', 'text = ""']
    lines += [f"{name} = {_spelled(here)}" for name, here in signature.damage().items()]
    return "\n".join(lines)


def _spelled(here: object) -> str:
    if isinstance(here, tuple):
        return f"[{', '.join(map(_spelled, here))}]"
    if isinstance(here, int):
        return str(here)
    return quoted(_literal(str(here)))


def quoted(text: str) -> str:
    """Return a text as TOML has it."""
    return '"' + "".join(map(_letter, text)) + '"'


def _literal(text: str) -> str:
    # The pattern that fits this text alone.
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _letter(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
