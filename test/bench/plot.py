"""Bars as SVG: one group a scenario, each with a scale of its own, and a whisker from the lowest run to the highest."""

import dataclasses
from xml.sax.saxutils import escape

WIDTH, LABELS, BARS, ROW, GAP, TOP = 760, 150, 480, 18, 26, 40
# Told apart also by those who see few colours (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


@dataclasses.dataclass(frozen=True)
class Bar:
    name: str
    value: float
    low: float
    high: float
    text: str


def label(x, y, words, anchor="start", weight="normal"):
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def _bar(y, bar, scale, colour):
    middle = y + ROW / 2
    length, low, high = (LABELS + max(value, 0) * scale for value in (bar.value, bar.low, bar.high))
    return [
        label(LABELS - 6, middle + 4, bar.name, "end"),
        f'<rect x="{LABELS}" y="{y + 2:g}" width="{length - LABELS:.1f}" height="{ROW - 4}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle:g}H{high:.1f}M{low:.1f} {middle - 3:g}v6M{high:.1f} {middle - 3:g}v6" '
        'stroke="#333" fill="none"/>',
        label(max(length, high) + 6, middle + 4, bar.text),
    ]


def colours(names):
    """{name: colour}, in the order in which they come."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(dict.fromkeys(names))}


def page(width, height, parts):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height:g}" fill="#fff"/>', *parts, "</svg>", ""])


def draw(title, groups):
    """`groups`: (what stands above them, bars). A name has the same colour in all of them."""
    own = colours(bar.name for _, bars in groups for bar in bars)
    parts = [label(10, 24, title, weight="bold")]
    y = TOP
    for heading, bars in groups:
        parts.append(label(10, y + 14, heading, weight="bold"))
        y += GAP
        scale = BARS / max([bar.high for bar in bars if bar.high > 0], default=1)
        for bar in bars:
            parts += _bar(y, bar, scale, own[bar.name])
            y += ROW
        y += ROW / 2
    return page(WIDTH, y + 14, parts)
