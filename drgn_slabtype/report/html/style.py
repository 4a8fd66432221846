# SPDX-License-Identifier: LGPL-2.1-or-later
"""The style of the HTML page: light and dark, wide and narrow, without scripts."""

from __future__ import annotations

# Colour of each kind of page, for light and for dark; told apart by lightness
# as well as by hue.
COLOURS = {
    "slab": ("#1f6feb", "#58a6ff"),
    "buddy": ("#e3e6ea", "#2b3138"),
    "pcp": ("#c6ccd3", "#3d454e"),
    "anon": ("#2e8540", "#56c26e"),
    "file": ("#a87b3e", "#d3a968"),
    "shmem": ("#8a8f2a", "#c3c95b"),
    "table": ("#8250df", "#b18cf2"),
    "hugetlb": ("#176f68", "#3fb5aa"),
    "large_kmalloc": ("#0b3d91", "#8fb8ff"),
    "zsmalloc": ("#c2569b", "#ec8fc8"),
    "reserved": ("#6e5a52", "#a08c82"),
    "offline": ("#c4a000", "#e3c84a"),
    "balloon": ("#c4a000", "#e3c84a"),
    "guard": ("#b35900", "#f0883e"),
    "unaccepted": ("#555b8c", "#8f96cf"),
    "kmemcg": ("#28607a", "#63a9c9"),
    "other": ("#7d8896", "#77838f"),
    "unknown": ("#d1242f", "#ff7b72"),
    "unreadable": ("#111418", "#f0f3f6"),
}

_BASE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f5f7f9; --line: #d5dae0; --text: #1b2026; --quiet: #56606b;
  --good: #1a7f37; --bad: #c21f2b; --hurt: #fdf0f0; --unsure: #9a6700; --link: #0b57d0;
  --in-use: #1f6feb; --free: #9ec5fe; --others: #8250df; --waste: #e0a458;
LIGHT
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1317; --raised: #181d23; --line: #323a43; --text: #e4e9ee; --quiet: #9aa5b1;
    --good: #4ac26b; --bad: #ff7b72; --hurt: #2a1618; --unsure: #d9a72e; --link: #7db4ff;
    --in-use: #58a6ff; --free: #264b7c; --others: #b18cf2; --waste: #b9782f;
DARK
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem;
  background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; }
a { color: var(--link); }
code { font: .9em ui-monospace, monospace; }
.quiet { color: var(--quiet); }
.good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
.facts { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  margin: 1rem 0; padding: 0; }
.facts div { background: var(--raised); border: 1px solid var(--line); border-radius: .4rem;
  padding: .5rem .75rem; }
.facts dt { color: var(--quiet); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .5rem 0; padding: 0;
  list-style: none; font-size: .9rem; }
.legend i, td i { display: inline-block; width: .85em; height: .85em; margin-right: .4em;
  border-radius: .15em; border: 1px solid var(--line); vertical-align: -.05em; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font: 11px ui-monospace, monospace; }
.map { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem;
  background: var(--raised); }
.map .row { display: grid; grid-template-columns: 6.5rem 1fr; align-items: center; gap: .5rem; }
.map .row code { font-size: .75rem; text-align: right; white-space: nowrap; }
.map .row svg { height: 1rem; }
.map rect { shape-rendering: crispEdges; }
.axis { fill: var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 600; font-size: .85rem; overflow-wrap: normal; }
th.name, td.name, th.words, td.words, th.bar { text-align: left; }
td.bar { width: 30%; min-width: 8rem; vertical-align: middle; }
.bar svg { height: .9rem; }
.hist { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.hist figure { margin: 0; background: var(--raised); border: 1px solid var(--line);
  border-radius: .4rem; padding: .5rem .75rem; }
.hist figcaption { font-size: .85rem; }
ol.tree, ol.tree ol { list-style: none; margin: 0; padding: 0; }
ol.tree ol { margin-left: .75rem; padding-left: .75rem; border-left: 2px solid var(--line); }
ol.tree li { margin: .5rem 0; }
dl.codes dt { margin-top: .75rem; } dl.codes dd { margin: 0 0 .25rem; }
dl.codes ul { margin: 0; padding-left: 1.25rem; }
dl.codes dt:target { background: var(--raised); outline: 2px solid var(--link); }
dl.facets { display: grid; grid-template-columns: 7rem 1fr; gap: .15rem .75rem; margin: .5rem 0; }
dl.facets dt { color: var(--quiet); } dl.facets dd { grid-column: 2; margin: 0; }
th code, td code, td.date { white-space: nowrap; }
pre { white-space: pre-wrap; margin: .5rem 0; padding: .5rem .75rem; background: var(--raised);
  border: 1px solid var(--line); border-radius: .4rem; }
details { margin: .25rem 0; } summary { cursor: pointer; color: var(--quiet); }
tr.damaged td { background: var(--hurt); }
tr.damaged td.name, figure.damaged { box-shadow: inset .25rem 0 0 var(--bad); }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (min-width: 56.01rem) {
  td:not(.words):not(.name):not(.bar), td:has(> i) { white-space: nowrap; }
}
@media (max-width: 40rem) {
  body { font-size: 15px; }
  dl.facets { display: block; } dl.facets dt { margin-top: .4rem; }
  .facts div { padding: .5rem; } .facts dd { font-size: 1.05rem; }
  table, tbody, tr, td { display: block; width: 100%; }
  thead { display: none; }
  tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; }
  td::before { content: attr(data-label); color: var(--quiet); flex: none; }
  td.name { display: block; font-weight: 600; } td.name::before { content: none; }
  td.bar { width: 100%; } td.bar::before { content: none; } td.bar svg { flex: 1; }
}
@media print { body { max-width: none; } }
"""


def style() -> str:
    """Return the style sheet."""
    rules = "".join(
        f".k-{kind} {{ fill: var(--k-{kind}); background: var(--k-{kind}); }}\n" for kind in COLOURS
    )
    light = "".join(f"  --k-{kind}: {pair[0]};" for kind, pair in COLOURS.items())
    dark = "".join(f"    --k-{kind}: {pair[1]};" for kind, pair in COLOURS.items())
    rules += "".join(
        f".p-{part} {{ fill: var(--{part}); background: var(--{part}); }}\n"
        for part in ("in-use", "free", "others", "waste")
    )
    return _BASE.replace("LIGHT", light).replace("DARK", dark) + rules
