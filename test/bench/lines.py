"""Lines as SVG: a panel for each figure, a line for each name, a point with a whisker for each size; the sizes are on a
logarithmic scale."""

import dataclasses
import math

import plot

PANEL, HEIGHT, PLOT = 380, 210, (56, 30, 306, 140)  # of a panel; left, top, width and height of what is drawn in it
TOP = 60


@dataclasses.dataclass(frozen=True)
class Point:
    size: int
    value: float
    low: float
    high: float


def _ceiling(highest):
    """The next number that its axis can end with: a few times a power of ten."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= highest * 0.999999)


class _Axes:
    def __init__(self, x, y, sizes, series):
        left, top, self.width, self.height = PLOT
        self.x, self.y = x + left, y + top
        self.sizes = sizes
        self.top = _ceiling(max(point.high for line in series.values() for point in line))

    def across(self, size):
        first, last = math.log10(self.sizes[0]), math.log10(self.sizes[-1])
        return self.x + (math.log10(size) - first) / ((last - first) or 1) * self.width

    def up(self, value):
        return self.y + self.height * (1 - max(value, 0) / self.top)

    def drawn(self):
        parts = []
        for value in (0, self.top / 2, self.top):
            parts += [f'<path d="M{self.x:g} {self.up(value):g}h{self.width}" stroke="#ccc"/>',
                      plot.label(self.x - 6, self.up(value) + 4, f"{value:g}", "end")]
        return parts + [plot.label(self.across(size), self.y + self.height + 16, str(size), "middle")
                        for size in self.sizes]


def _line(axes, points, colour):
    places = [(axes.across(point.size), axes.up(point.value), axes.up(point.low), axes.up(point.high))
              for point in sorted(points, key=lambda point: point.size)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in places)
    whiskers = "".join(f"M{x:.1f} {low:.1f}V{high:.1f}" for x, _, low, high in places)
    return [f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>',
            f'<path d="{whiskers}" stroke="{colour}" fill="none"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y, _, _ in places)]


def _legend(colours):
    parts = []
    x = 10
    for name, colour in colours.items():
        parts += [f'<circle cx="{x + 5:g}" cy="42" r="5" fill="{colour}"/>', plot.label(x + 15, 46, name)]
        x += 35 + 7 * len(name)
    return parts


def draw(title, panels):
    """`panels`: (what stands above it, {name: points}), two in a row. A name has the same colour in all of them."""
    sizes = sorted({point.size for _, series in panels for line in series.values() for point in line})
    colours = plot.colours(name for _, series in panels for name in series)
    parts = [plot.label(10, 24, title, weight="bold"), *_legend(colours)]
    for index, (heading, series) in enumerate(panels):
        x, y = index % 2 * PANEL, TOP + index // 2 * HEIGHT
        axes = _Axes(x, y, sizes, series)
        parts += [plot.label(x + 10, y + 16, heading, weight="bold"), *axes.drawn()]
        for name, points in series.items():
            parts += _line(axes, points, colours[name])
    return plot.page(2 * PANEL, TOP + (len(panels) + 1) // 2 * HEIGHT, parts)
