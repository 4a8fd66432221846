# SPDX-License-Identifier: LGPL-2.1-or-later
"""The HTML page of a fleet: every group with its best example, and what was not judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ... import __version__
from ...codes import CATALOGUE
from ..values import plural
from ..views.fleet import GROUP, RELEASE, TOTALS, UNJUDGED, groups, outcome
from .style import style
from .table import Markup, table, text

if TYPE_CHECKING:
    from ...fleet.summary import Fleet, Group

_PATHS = 50  # of a group that are listed; JSON has all


def fleet(found: Fleet) -> Iterator[str]:
    """Present what is known of a fleet's dumps."""
    yield "<!DOCTYPE html>\n"
    yield '<html lang="en"><head><meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    title = (
        f"{plural(found.totals.damaged, 'damaged dump')} in {plural(len(found.groups), 'group')}"
    )
    yield f"<title>{text(title)}</title>\n<style>{style()}</style></head><body>\n"
    for part in (_header(found, title), _table(found), _groups(found), _releases(found)):
        yield from (f"{line}\n" for line in part)
    for part in (_unjudged(found), _catalogue(found)):
        yield from (f"{line}\n" for line in part)
    yield f'<footer class="quiet"><p>drgn-slabtype {__version__}</p></footer>\n</body></html>\n'


def _header(found: Fleet, title: str) -> Iterator[str]:
    shade = "bad" if found.totals.damaged else "unsure" if found.exit_status else "good"
    yield f'<header><h1 class="{shade}">{text(title)}</h1>'
    yield f'<p class="quiet">{text(found.folder)}: {text("; ".join(outcome(found)))}</p></header>'
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(told)}</dd></div>"
        for name, told in TOTALS.facts(found.totals)
    )
    yield f'<dl class="facts">{items}</dl>'


def _table(found: Fleet) -> Iterator[str]:
    yield '<section id="groups"><h2>Groups</h2>'
    if not found.groups:
        yield "<p>None.</p>"
    else:
        any_copy = any(group.copies for group in found.groups)
        view = groups(any(group.causes for group in found.groups), any_copy)
        grid = view.grid(found.groups)
        for group, cells in zip(found.groups, grid.rows):
            cells[0] = Markup(
                f'<a href="#group-{text(group.id)}"><code>{text(group.id)}</code></a>'
            )
        yield from table(grid)
    yield "</section>"


def _groups(found: Fleet) -> Iterator[str]:
    for group in found.groups:
        yield f'<section id="group-{text(group.id)}">'
        yield f'<h3><code>{text(group.id)}</code>: {text(group.what)}</h3><dl class="facets">'
        yield f"<dt>dumps</dt><dd>{group.dumps}</dd>"
        for name, told in GROUP.facts(group):
            shown = text(told)
            heading = f"<dt>{text(name)}</dt>" if name else ""
            yield f"{heading}<dd>{f'<code>{shown}</code>' if name == 'look at it' else shown}</dd>"
        yield "</dl>"
        yield from _more(group)
        yield "</section>"


def _more(group: Group) -> Iterator[str]:
    rest = len(group.paths) - _PATHS
    paths = "".join(f"<li><code>{text(path)}</code></li>" for path in group.paths[:_PATHS])
    paths += f"<li>{rest} more</li>" if rest > 0 else ""
    yield f"<details><summary>all dumps</summary><ul>{paths}</ul></details>"
    yield (
        "<details><summary>for a file of known causes</summary>"
        f"<pre><code>{_lines(group.toml)}</code></pre></details>"
    )


def _lines(told: str) -> str:
    return "\n".join(map(text, told.split("\n")))


def _releases(found: Fleet) -> Iterator[str]:
    if found.releases:
        yield '<section id="releases"><h2>Releases</h2>'
        yield from table(RELEASE.grid(found.releases))
        yield "</section>"


def _unjudged(found: Fleet) -> Iterator[str]:
    if found.unjudged or found.unread:
        yield '<section id="unjudged"><h2>Not judged</h2>'
        yield from (f"<p>Not looked at: {text(line)}</p>" for line in found.unread)
        if found.unjudged:
            yield from table(UNJUDGED.grid(found.unjudged))
        yield "</section>"


def _catalogue(found: Fleet) -> Iterator[str]:
    seen = {signature.code for group in found.groups for signature in group.signatures}
    if seen:
        yield '<section id="codes"><h2>What the findings mean</h2><dl class="codes">'
        for code, meaning in CATALOGUE.items():
            if code in seen:
                yield f"<dt><code>{code}</code></dt><dd>{text(meaning.meaning)}</dd>"
        yield "</dl></section>"
