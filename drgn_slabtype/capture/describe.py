# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a capture takes from the debug info
----------------------------------------

Everything of :mod:`.roots` that the kernel has, as plain JSON.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Set, Tuple

from drgn import Object, Type, TypeKind, sizeof

from ..machine import Machine
from . import roots
from .types import TypeWriter

Name = Tuple[str, int, int]
"""Name, address and size of a symbol."""


def find_variables(machine: Machine, names: List[str]) -> Iterator[Tuple[str, Object]]:
    """Yield those of some variables that this kernel has in memory."""
    for name in names:
        try:
            variable = machine.prog.variable(name)
        except LookupError:
            continue
        if variable.address_ is None:
            continue
        type = variable.type_
        if type.kind == TypeKind.ARRAY and type.length is None:
            # linux_banner is declared weak, without a length, beside its
            # definition; which of the two drgn finds first is left to chance.
            try:
                size = machine.prog.symbol(name).size
            except LookupError:
                continue
            whole = machine.prog.array_type(
                type.type, size // sizeof(type.type), qualifiers=type.qualifiers
            )
            variable = Object(machine.prog, whole, address=variable.address_)
        if variable.type_.is_complete():
            yield name, variable


def describe(machine: Machine, names: Set[Name]) -> Dict[str, Any]:
    """
    Return the types, objects, constants and symbols that a capture needs.

    :param names: Further symbols.
    """
    types = TypeWriter(_find_types(machine))
    variables, functions, symbols = {}, {}, set(names)
    for name, variable in find_variables(machine, roots.VARIABLES + roots.PER_CPU_VARIABLES):
        variables[name] = types.add(variable.type_), variable.address_
        if name not in roots.PER_CPU_VARIABLES:
            symbols.add((name, variable.address_ or 0, sizeof(variable)))
    for name in roots.FUNCTIONS:
        try:
            function = machine.prog.function(name)
        except LookupError:
            continue
        # Optimised away, it has no address; that there is one is what drgn asks.
        functions[name] = types.add(function.type_), function.address_
        if function.address_ is not None:
            symbols.add((name, function.address_, 0))
    for name in roots.SYMBOLS:
        try:
            symbol = machine.prog.symbol(name)
        except LookupError:
            continue
        symbols.add((name, symbol.address, symbol.size))
    constants = _find_constants(machine, types)
    return {
        "types": types.nodes,
        "variables": variables,
        "functions": functions,
        "constants": constants,
        "symbols": sorted(symbols, key=lambda symbol: (symbol[1], symbol)),
    }


def _find_types(machine: Machine) -> List[Type]:
    found = []
    for name in roots.TYPES:
        try:
            found.append(machine.prog.type(name))
        except LookupError:
            continue
    for name in roots.ENUMERATORS:
        try:
            found.append(machine.prog.constant(name).type_)
        except LookupError:
            continue
    return found


def _find_constants(machine: Machine, types: TypeWriter) -> Dict[str, int]:
    # An enumerator may be in two enumerations (PG_slab, over the years, in
    # several). By default the first one counts; here is where that differs
    # from what this kernel's debug info answers.
    first: Dict[str, int] = {}
    for at, node in enumerate(types.nodes):
        if node[0] == "enum" and len(node) > 3:
            for name, _ in node[3]:
                first.setdefault(name, at)
    differing = {}
    for name, at in first.items():
        try:
            ref = types.add(machine.prog.constant(name).type_)
        except LookupError:
            continue
        position = ref[0] if isinstance(ref, list) else ref
        if position != at and types.nodes[position][0] == "enum":
            differing[name] = position
    return differing
