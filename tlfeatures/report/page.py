"""The page: one HTML file that needs no other, no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "MARK",
    "Picture",
    "details",
    "figure",
    "findings",
    "page",
    "pairs",
    "paragraph",
    "pre",
    "section",
    "table",
    "tiles",
]

MARK = '<meta name="generator" content="tlfeatures">'
_CSS = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1140px;padding:1rem 1.2rem 4rem;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif;color:#1d1d1f;background:#fff;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.6rem 0}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:2px solid #0072B2;padding-bottom:.2rem}
p{margin:.5rem 0;max-width:75ch}
.note{color:#4a4a4f;font-size:.9rem}
.winner{background:#eef5fb;border-left:5px solid #0072B2;padding:.7rem 1rem;border-radius:0 6px 6px 0}
.winner strong{font-size:1.35rem}
.warning{background:#fdf3e7;border-left:5px solid #D55E00;padding:.6rem 1rem;border-radius:0 6px 6px 0}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));
gap:1rem 1.6rem;align-items:start}
figure{margin:0;min-width:0}
figure.wide{grid-column:1/-1}
figure img{width:100%;height:auto;display:block}
figure.wide img{max-width:none}
figcaption{color:#4a4a4f;font-size:.88rem;margin-top:.2rem}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;margin:.4rem 0}
th,td{padding:.22rem .7rem .22rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e4e4e4;
white-space:nowrap}
th{border-bottom:2px solid #bbb}
td.n,th.n{text-align:right}
tr.best td{font-weight:700;background:#eef5fb}
.bar{display:inline-block;height:.7em;background:#0072B2;border-radius:2px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:.9rem;
list-style:none;padding:0;margin:.6rem 0}
.tiles img,.tiles .none{width:100%;aspect-ratio:1;object-fit:contain;background:#111;border-radius:6px;display:block}
.tiles .none{color:#ddd;display:flex;align-items:center;justify-content:center;
font-size:.8rem;text-align:center;padding:.5rem}
.tiles div.text{font-size:.84rem;line-height:1.35;margin-top:.25rem}
.tiles .file{color:#4a4a4f;font-size:.75rem}
pre{background:#f5f5f7;border-radius:6px;padding:.7rem .9rem;overflow-x:auto;
font-size:.82rem;line-height:1.45;max-width:100%}
pre.wrap{white-space:pre-wrap}
details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600}
dl{display:grid;grid-template-columns:fit-content(55%) 1fr;gap:.15rem 1rem;font-size:.9rem;margin:.4rem 0}
dt{font-weight:600}dd{margin:0}
li{margin:.3rem 0}
a{color:#005a8c}
@media (max-width:600px){body{padding:.6rem .8rem 3rem}h1{font-size:1.3rem}
.tiles{grid-template-columns:repeat(2,1fr)}}
@media print{figure,.tiles li{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Picture:
    """A plot: its file's name without suffix, its PNG bytes, its width in inches, and what it says."""

    name: str
    data: bytes
    inches: float
    alt: str
    caption: str


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    head = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_CSS}</style></head><body>\n"
    )
    return head + "\n".join(part for part in parts if part) + "\n</body></html>\n"


def _text(value: Any) -> str:
    """Text of a page; what is no Unicode, as in names of files, is written out."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode())


def section(title: str, *parts: str) -> str:
    """A heading with what follows it; nothing where nothing follows."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{_text(title)}</h2>\n{inner}\n</section>" if inner else ""


def paragraph(text: str, kind: str = "", strong: str = "") -> str:
    """A paragraph, its beginning emphasized."""
    mark = f"<strong>{_text(strong)}</strong><br>" if strong else ""
    return f'<p class="{kind}">{mark}{_text(text)}</p>' if kind else f"<p>{mark}{_text(text)}</p>"


def pairs(items: Mapping[str, Any]) -> str:
    """Names with their values."""
    return f"<dl>{''.join(f'<dt>{_text(k)}</dt><dd>{_text(v)}</dd>' for k, v in items.items())}</dl>"


def findings(items: Iterable[tuple[str, str]]) -> str:
    """Sentences, each with what was measured that says so."""
    rows = (f'<li><strong>{_text(a)}</strong><br><span class="note">{_text(b)}</span></li>' for a, b in items)
    return f"<ul>{''.join(rows)}</ul>"


def pre(text: str, wrap: bool = False) -> str:
    """Code; ``wrap`` breaks long lines, which else scroll in their box."""
    return f"<pre{' class=wrap' if wrap else ' tabindex=0'}>{_text(text)}</pre>"


def details(summary: str, *parts: str) -> str:
    """What opens at a click, without a script."""
    return f"<details><summary>{_text(summary)}</summary>{''.join(parts)}</details>"


def figure(pictures: Sequence[Picture]) -> str:
    """Plots beside each other where there is room; those wider than a phone's scroll in their box."""
    found = []
    for one in pictures:
        source = f"data:image/png;base64,{base64.b64encode(one.data).decode()}"
        wide = one.inches > 5.5
        # at its own size: shrunk to a phone, the names of fifty classes could not be read
        width = f' style="width:{round(one.inches * 96)}px"' if wide else ""
        image = f'<img src="{source}" alt="{_text(one.alt)}"{width}>'
        found.append(
            f'<figure{" class=wide" if wide else ""}><div class="scroll">{image}</div>'
            f"<figcaption>{_text(one.caption)}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def table(
    frame: pd.DataFrame,
    formats: Mapping[str, Callable[[Any], str]] | None = None,
    best: int | None = None,
    bar: str | None = None,
) -> str:
    """A table that scrolls in its box; NaN is empty.

    Parameters
    ----------
    frame : DataFrame
    formats : mapping of column to function, optional
    best : int, optional
        Place of the row to emphasize.
    bar : str, optional
        Column beside whose numbers bars are drawn.
    """
    formats = formats or {}
    numeric = {name: frame[name].dtype.kind in "iufb" for name in frame}
    kinds = {name: "n" if numeric[name] else "t" for name in frame}
    head = "".join(f'<th class="{kinds[name]}" scope="col">{_text(name)}</th>' for name in frame)
    if bar is not None:
        head += "<th></th>"
        most = max(float(np.nanmax(frame[bar].to_numpy(float))), 1e-12)
    body = []
    for i, row in enumerate(frame.to_dict("records")):
        cells = [
            f'<td class="{kinds[name]}">{_text(_cell(value, formats.get(name)))}</td>'
            for name, value in row.items()
        ]
        if bar is not None:
            cells.append(f'<td><span class="bar" style="width:{100 * row[bar] / most:.0f}px"></span></td>')
        body.append(f"<tr{' class=best' if i == best else ''}>{''.join(cells)}</tr>")
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{inner}</table></div>'  # can be scrolled by keys


def _cell(value: Any, format_: Callable[[Any], str] | None) -> str:
    if value is None or value != value:
        return ""
    if format_ is not None:
        return format_(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def tiles(items: Iterable[tuple[bytes | None, str, Sequence[str]]]) -> str:
    """Small pictures (JPEG, or None where one cannot be read) with a file's name and lines of text."""
    found = []
    for data, name, lines in items:
        if data is None:
            image = '<div class="none">cannot be read any more</div>'
        else:
            image = f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{_text(lines[0])}">'
        text = "<br>".join(map(_text, lines))
        found.append(f'<li>{image}<div class="text">{text}<div class="file">{_text(name)}</div></div></li>')
    return f'<ul class="tiles">{"".join(found)}</ul>' if found else ""
