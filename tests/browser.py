# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a browser makes of a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, Dict, NoReturn

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_PROBE = """
<script>
const clash = [], cut = [], faint = [], astray = [], torn = [];
const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== "hidden";
const told = e => e.outerHTML.slice(0, 80);
const boxes = [...document.querySelectorAll("h1,h2,h3,p,td,th,li,dt,dd,figure,code,figcaption")]
  .filter(shown);
for (const e of boxes) {
  const r = e.getBoundingClientRect();
  if (r.right > innerWidth + 1 || r.left < -1 || e.scrollWidth > e.clientWidth + 1 &&
      getComputedStyle(e).display !== "inline") cut.push(told(e));
}
for (const group of document.querySelectorAll("tr, .facts, .facts div, .hist, .row, .legend")) {
  const kids = [...group.children].filter(shown).map(e => [e, e.getBoundingClientRect()]);
  for (let i = 0; i < kids.length; i++) for (let j = i + 1; j < kids.length; j++) {
    const [a, b] = [kids[i][1], kids[j][1]];
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 &&
        b.top < a.bottom - 1) clash.push(told(kids[i][0]));
  }
}
// Contrast as WCAG 2 defines it, of text with what lies behind it.
const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => {
  const [r, g, b] = rgb(colour).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (rgb(colour)[3] !== 0) return colour;
  }
};
for (const e of document.querySelectorAll("body *")) {
  if (!shown(e) || e.closest("svg, script") ||
      ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
  if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) faint.push(told(e));
}
for (const a of document.querySelectorAll("a")) {
  const target = document.getElementById(decodeURIComponent(a.hash.slice(1)));
  if (!target || !shown(target) || !target.nextElementSibling.textContent.trim())
    astray.push(told(a));
}
for (const svg of document.querySelectorAll("svg")) {
  const r = svg.getBoundingClientRect();
  if (r.width < 20 || r.height < 5) cut.push(told(svg));
}
// A number or a date goes on in no second line.
for (const e of document.querySelectorAll("td, dd")) {
  const number = /^[-0-9.:+%]{1,12}$/.test(e.textContent.trim());
  if (!shown(e) || e.childElementCount || !number) continue;
  const range = document.createRange();
  range.selectNodeContents(e);
  if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) torn.push(told(e));
}
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ground = getComputedStyle(document.body).backgroundColor;
const found = {width: innerWidth, page: document.documentElement.scrollWidth, boxes: boxes.length,
  links: document.links.length, clash, cut, faint, astray, torn, dark, ground};
parent.postMessage(found, "*");
</script>
"""
# The windows of a browser are no narrower than 500; its frames are.
_FRAME = """<!DOCTYPE html><html style="color-scheme: light dark"><body>
<script>onmessage = e => { document.body.dataset.probe = JSON.stringify(e.data); };</script>
<iframe src="page.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe></body></html>
"""


def _cannot(reason: str) -> NoReturn:
    # CI has a browser and says so: there, none is a failure.
    if os.environ.get("SLABTYPE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def probe(folder: Path, page: str, width: int, dark: bool) -> Dict[str, Any]:
    """Lay a page out in a browser, and return what was measured; without one, skip the test."""
    browser = next((found for found in map(shutil.which, _BROWSERS) if found), None)
    if browser is None:
        _cannot(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    (folder / "page.html").write_text(page + _PROBE)
    (folder / "frame.html").write_text(_FRAME.replace("WIDTH", str(width)))
    arguments = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
        " --disable-background-networking --disable-component-update --disable-default-apps"
        " --disable-domain-reliability --disable-extensions --disable-sync --no-pings"
        " --virtual-time-budget=2000 --dump-dom"
    ).split()
    command = [
        browser,
        *arguments,
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1400,1000",
        (folder / "frame.html").as_uri(),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        _cannot(f"{browser} does not end")
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    if found is None:
        _cannot(f"{browser} does not run here: {done.stderr.strip()[-200:]}")
    measured: Dict[str, Any] = json.loads(unescape(found[1]))
    return measured


def assert_legible(probe: Dict[str, Any], width: int, dark: bool) -> None:
    """Fail if anything on a page overlaps, is cut off, torn or faint, or leads astray."""
    assert probe["width"] == width
    assert probe["page"] <= width
    assert probe["boxes"] > 100
    assert probe["links"] > 0
    for trouble in ("clash", "cut", "faint", "astray", "torn"):
        assert probe[trouble] == [], trouble
    assert probe["dark"] == dark
    assert probe["ground"] == ("rgb(15, 19, 23)" if dark else "rgb(255, 255, 255)")
