"""How the report page looks: light, dark, narrow and printed. Text has a contrast of 4.5 to 1 or more."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --muted: #57606a; --line: #d4dae1; --band: #f4f6f8;
  --link: #0b57a4; --note: #fff6dd; --note-line: #b87900; --right: 0, 114, 178; --wrong: 213, 94, 0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --muted: #a7b0ba; --line: #39414b; --band: #1d2228;
    --link: #86bdff; --note: #2c2613; --note-line: #d9a520; --right: 60, 150, 220; --wrong: 224, 112, 30;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; }
h3 { font-size: 1.15rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 48rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.quiet, caption, figcaption { color: var(--muted); font-size: .9rem; }
figcaption { max-width: 48rem; }
.note {
  background: var(--note); border-left: 4px solid var(--note-line); padding: .6rem .9rem; margin: .6rem 0;
  max-width: 60rem; overflow-wrap: anywhere;
}
.note ul { margin: .25rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .35rem; font-weight: 600; white-space: nowrap; }
th, td { padding: .28rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--muted); vertical-align: bottom; font-weight: 600; }
tbody th { font-weight: 500; }
td + th { min-width: 10rem; overflow-wrap: anywhere; }
th.group { background: var(--band); font-weight: 600; padding-top: .5rem; }
td.n, th.n { text-align: right; }
td.n { white-space: nowrap; }
.none { color: var(--muted); font-style: italic; white-space: normal; }
.bar { display: inline-block; height: .7em; background: rgb(var(--right)); max-width: 12rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; }
figure { margin: 1rem 0; }
.drawn { overflow-x: auto; }
svg.chart { display: block; width: 100%; min-width: 40rem; max-width: 62rem; height: auto; }
svg.chart * { stroke-linejoin: round; stroke-linecap: butt; }
svg.chart text { font-family: inherit !important; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff; }
.run { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: .9rem 0; padding: 0; }
.tiles div {
  background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem;
}
.tiles dt { color: var(--muted); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.05rem; font-weight: 600; }
.tiles .none { font-weight: 400; }
.receipts { columns: 2 27rem; column-gap: 2rem; margin-top: 1.25rem; }
.receipts .scroll { break-inside: avoid; margin-top: 0; }
.receipts td { overflow-wrap: anywhere; }
.receipts tbody th { white-space: nowrap; }
.hit1 { background: rgba(var(--right), .12); } .hit2 { background: rgba(var(--right), .24); }
.hit3 { background: rgba(var(--right), .36); }
.miss1 { background: rgba(var(--wrong), .12); } .miss2 { background: rgba(var(--wrong), .24); }
.miss3 { background: rgba(var(--wrong), .36); }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
pre {
  overflow-x: auto; background: var(--band); border: 1px solid var(--line); padding: .75rem;
  font-size: .82rem;
}
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  .receipts tbody th, caption { white-space: normal; }
}
@media print {
  :root {
    --paper: #fff; --ink: #000; --muted: #444; --line: #bbb; --band: #f4f4f4; --link: #000; --note: #fff;
    --note-line: #000;
  }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }
  nav { display: none; }
  .scroll, .drawn { overflow: visible; }
  table { font-size: 8pt; } th, td { padding: .15rem .4rem; }
  .receipts { columns: 2; } pre { font-size: 7pt; columns: 2; } .tiles dd { font-size: .9rem; }
  figure, tr, .tiles, .note { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  .run { break-before: page; border: 0; } h2 + .run { break-before: auto; }
  svg.chart { min-width: 0; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""
