"""Curves as SVG for docs/performance.md, without a plotting library. They are readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 150, 44, 52
_COLOURS = ("#2f6fde", "#d9572b", "#2a9d68", "#8a5cd1", "#b08400")
_INK = "#7a7f87"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A picture of several lines over one axis, one line for each of the things compared."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    #: Whether the x axis is logarithmic, as for table sizes.
    log_x: bool = False

    def svg(self) -> str:
        """The picture."""
        points = [point for line in self.lines.values() for point in line]
        xs = sorted({x for x, _ in points})
        top = _round_up(max(y for _, y in points))
        place_x = self._scale(xs)
        inner = _HEIGHT - _TOP - _BOTTOM

        def place_y(y: float) -> float:
            return _HEIGHT - _BOTTOM - inner * y / top

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" fill="{_INK}">',
            "<style>text { font: 12px system-ui, sans-serif }</style>",
            f"<title>{escape(self.title)}</title>",
            f'<text x="{_LEFT}" y="22" style="font-size: 14px; font-weight: 600">{escape(self.title)}</text>',
        ]
        for step in range(5):
            y = top * step / 4
            at = place_y(y)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_INK}" '
                f'stroke-opacity="{0.7 if step == 0 else 0.25}"/>'
                f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y:,.5g}</text>'
            )
        parts += [
            f'<text x="{place_x(x):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_short(x)}</text>'
            for x in xs
        ]
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(self.x)}</text>')
        parts.append(
            f'<text transform="translate(16 {_TOP + inner / 2}) rotate(-90)" text-anchor="middle">{escape(self.y)}</text>'
        )
        ends = _apart([place_y(line[-1][1]) for line in self.lines.values()])
        for (label, line), colour, end in zip(self.lines.items(), _COLOURS, ends, strict=False):
            way = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in line)
            parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in line]
            parts.append(f'<text x="{_WIDTH - _RIGHT + 10}" y="{end + 4:.1f}" fill="{colour}">{escape(label)}</text>')
        return "\n".join([*parts, "</svg>\n"])

    def _scale(self, xs: Sequence[float]) -> "_Scale":
        return _Scale(xs[0], xs[-1], log=self.log_x)


class _Scale:
    """Turns a value of the x axis into a position."""

    def __init__(self, least: float, most: float, *, log: bool) -> None:
        self._log = log
        self._least, self._most = self._of(least) if log else 0.0, self._of(most)

    def _of(self, x: float) -> float:
        return log10(x) if self._log else x

    def __call__(self, x: float) -> float:
        share = (self._of(x) - self._least) / ((self._most - self._least) or 1.0)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _round_up(value: float) -> float:
    """The next higher value whose quarters are round numbers."""
    size = 10 ** floor(log10(value)) if value > 0 else 1.0
    return ceil(value / size * 2.5) / 2.5 * size


def _apart(concurrency: Sequence[float], gap: float = 15.0) -> list[float]:
    """The positions of the labels at the line ends, moved apart where they would overlap."""
    moved = list(concurrency)
    order = sorted(range(len(concurrency)), key=lambda i: concurrency[i])
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    return moved


def _short(x: float) -> str:
    if x >= 1_000_000:
        return f"{x / 1e6:g} M"
    return f"{x / 1000:g} k" if x >= 10_000 else f"{x:g}"
