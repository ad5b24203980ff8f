"""Bar charts as SVG: a few bars for each of a few groups, in the light and the dark alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 740, 275, 90
BAR, GAP, BETWEEN, TOP = 18, 4, 16, 40
COLOURS = ("#1a73e8", "#9aa0a6", "#c5a880", "#b39ddb")
#: Grey enough for a light and a dark page.
INK = "#7a7f87"
XMLNS = "http://www.w3.org/2000/svg"
FONT = 'font-family="system-ui, sans-serif"'


def bar_chart(title: str, groups: Mapping[str, Sequence[tuple[str, float]]], *, unit: str) -> str:
    """
    Return a chart of horizontal bars.

    :param groups: By the name of each group its bars, in order: name and value.
    :param unit: Behind each value.
    """
    largest = max(value for bars in groups.values() for _, value in bars) or 1.0
    names = list(dict.fromkeys(name for bars in groups.values() for name, _ in bars))
    parts: list[str] = [_text(0, 20, title, size=15, weight="bold")]
    y = TOP
    for group, bars in groups.items():
        parts.append(_text(0, y + 13, group, weight="bold"))
        y += BAR + GAP
        for name, value in bars:
            length = max(1.0, value / largest * (WIDTH - LABELS - VALUES))
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(_text(12, y + 13, name))
            parts.append(
                f'<rect x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(LABELS + length + 6, y + 13, f"{_rounded(value)} {unit}"))
            y += BAR + GAP
        y += BETWEEN
    return "\n".join(
        [
            f'<svg xmlns="{XMLNS}" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            *parts,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, *, size: int = 13, weight: str = "normal") -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y}" {style}>{escape(text)}</text>'


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
