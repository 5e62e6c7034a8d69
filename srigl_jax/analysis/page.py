"""The page that a report is printed on: one HTML document that needs nothing else.

No script, no font, no picture comes from anywhere; it follows the reader's choice of a
light or a dark page. All functions take plain text and escape it, except where an
argument says that it is markup.
"""

from collections.abc import Iterable
from html import escape

from srigl_jax.analysis.svg import THEME, Picture


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole document; `sections` are markup."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_variables(0)}
@media (prefers-color-scheme: dark) {{ {_variables(1)} }}
{_CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
</header>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def section(heading: str, text: str, content: str) -> str:
    """A part of the page under its own heading; `content` is markup."""
    words = f"<p>{escape(text)}</p>\n" if text else ""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{words}{content}</section>\n"


def headline(figures: Iterable[tuple[str, str, str]]) -> str:
    """The figures to see first: what it is, its value, and a remark on it."""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
        f"<small>{escape(remark)}</small></dd></div>\n"
        for name, value, remark in figures
    )
    return f'<dl class="headline">\n{tiles}</dl>\n'


def table(columns: Iterable[str], rows: Iterable[list[str]], total: list[str]) -> str:
    """A table whose first two columns are words and whose others are numbers."""
    body = "".join(_row("td", row) for row in rows)
    return (
        f'<div class="wide"><table>\n<thead>{_row("th", columns)}</thead>\n'
        f"<tbody>\n{body}</tbody>\n<tfoot>{_row('td', total)}</tfoot>\n</table></div>\n"
    )


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Names and values, side by side."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
        for name, value in items
    )
    return f'<dl class="facts">\n{rows}</dl>\n'


def gallery(pictures: Iterable[Picture], width: int) -> str:
    """Pictures side by side, each `width` CSS pixels or a little wider."""
    figures = "".join(
        f"<figure>\n<figcaption>{escape(picture.title)}"
        f"<small>{escape(picture.reading)}</small></figcaption>\n"
        f"{picture.svg}</figure>\n"
        for picture in pictures
    )
    return f'<div class="gallery" style="--width: {width}px">\n{figures}</div>\n'


def _row(tag: str, cells: Iterable[str]) -> str:
    return (
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
    )


def _variables(choice: int) -> str:
    colours = (f"--{name}: {pair[choice]};" for name, pair in THEME.items())
    return f":root {{ {' '.join(colours)} }}"


_CSS = """\
:root { color-scheme: light dark; --page: #fff; --panel: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --page: #14181f; --panel: #1c222b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 40px 28px 64px;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 19px; line-height: 1.3; margin: 0 0 4px; }
p { margin: 0 0 14px; max-width: 52em; color: var(--muted); }
section { margin-top: 44px; }
dl, dd, figure { margin: 0; }
small { display: block; font-size: 13px; color: var(--muted); font-weight: normal; }
.headline { display: grid; gap: 12px; margin-top: 24px;
  grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); }
.headline div { background: var(--panel); border-radius: 10px; padding: 14px 16px; }
.headline dt { font-size: 13px; color: var(--muted); }
.headline dd { font-size: 26px; line-height: 1.25; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th { font-size: 13px; font-weight: normal; color: var(--muted); }
tfoot td { font-weight: 600; border-bottom: none; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.gallery { display: grid; gap: 28px 30px;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--width), 100%), 1fr)); }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 8px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.facts { columns: 2 340px; column-gap: 40px; font-size: 13px; }
.facts div { display: flex; justify-content: space-between; gap: 16px; padding: 4px 0;
  border-bottom: 1px solid var(--rule); break-inside: avoid; }
.facts dt { color: var(--muted); }
.facts dd { overflow-wrap: anywhere; text-align: right;
  font-family: ui-monospace, Menlo, Consolas, monospace; }
@media (prefers-color-scheme: dark) { svg image { filter: brightness(1.5); } }
"""
