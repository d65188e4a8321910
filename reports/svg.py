"""Small charts as SVG elements: scales, axes and marks.

Text stays text, colours come from the page's style sheet by class (so that a chart follows dark mode and print), and every
entrant has a shape and a dash besides its colour. ElementTree escapes whatever is written into a chart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

COLOURS, SHAPES = 8, 7  # without a common divisor: 56 looks before any comes twice
WIDTH = 380  # user units: what a phone has, so that letters keep their size there
LETTER = 7.0  # user units, the mean width of one
LONGEST = 20  # letters of a name in a chart; whole names stand in the tables


@dataclass(frozen=True)
class Scale:
    """Values to user units; with `log` in equal steps a factor."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    marks: tuple[float, ...] = ()

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, num: int = 5, log: bool = False) -> "Scale":
        """A scale that ends on round numbers (with `log` at the outermost values) and never has no length."""
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.3, high * 1.3, start, end, log=True)
        if high - low < 1e-9:
            low, high = low - 0.05 * (abs(low) or 1), high + 0.05 * (abs(high) or 1)
        ticks = MaxNLocator(num, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return cls(float(ticks[0]), float(ticks[-1]), start, end, marks=tuple(map(float, ticks)))

    def __call__(self, value: float) -> float:
        f = math.log if self.log else float
        return self.start + (self.end - self.start) * (f(value) - f(self.low)) / (f(self.high) - f(self.low))

    def ticks(self, num: int = 5) -> list[float]:
        """Round numbers inside."""
        if self.marks:
            return list(self.marks)
        if not self.log:
            found = MaxNLocator(num, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        else:
            decades = math.log10(self.high / self.low)
            found = LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=num).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(tick) for tick in found if self.low - slack <= tick <= self.high + slack]


class Chart:
    """An SVG picture that a screen reader announces by `label`; the numbers stand in a table behind it."""

    def __init__(self, label: str, height: float, width: float = WIDTH):
        self.width, self.height = width, height
        self.root = ElementTree.Element("svg", viewBox=f"0 0 {width:g} {height:g}", role="img")
        self.root.set("aria-label", label)

    def add(
        self, tag: str, kind: str = "", parent: ElementTree.Element | None = None, **attributes: object
    ) -> ElementTree.Element:
        """An element of class `kind`; numbers are rounded to a tenth of a unit, `_` in names is `-`."""
        element = ElementTree.SubElement(self.root if parent is None else parent, tag)
        if kind:
            element.set("class", kind)
        for name, value in attributes.items():
            element.set(name.replace("_", "-"), f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value))
        return element

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.add("text", kind, x=float(x), y=float(y), text_anchor=anchor).text = words

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A polyline through (x, y) in user units."""
        self.add("polyline", kind, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    def marker(self, x: float, y: float, look: int, hint: str = "", size: float = 4, kind: str = "mark") -> None:
        """The shape of a look; `hint` is shown under a mouse."""
        element = self.add("path", f"{kind} c{look % COLOURS}", d=SHAPE[look % SHAPES](x, y, size))
        if hint:
            self.add("title", parent=element).text = hint

    def x_axis(
        self, scale: Scale, y: float, name: str, show: Callable[[float], str], top: float, ticks: Sequence[float] = ()
    ) -> None:
        """Grid lines from `top` down to `y`, numbers and a name below."""
        for tick in ticks or scale.ticks():
            self.line([(scale(tick), top), (scale(tick), y)], "grid")
            self.text(scale(tick), y + 14, show(tick), "tick", "middle")
        self.text((scale.start + scale.end) / 2, y + 31, name, "name", "middle")

    def y_axis(self, scale: Scale, left: float, right: float, name: str, show: Callable[[float], str]) -> None:
        """Grid lines from left to right, numbers beside them, the name on top, written level."""
        for tick in scale.ticks():
            self.line([(left, scale(tick)), (right, scale(tick))], "grid")
            self.text(left - 6, scale(tick) + 4, show(tick), "tick", "end")
        self.text(0, 12, name, "name")

    @property
    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float, float], str]:
    def draw(x: float, y: float, size: float) -> str:
        return "M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners) + "Z"

    return draw


def _disc(x: float, y: float, size: float) -> str:
    return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0Z"


def _arms(num: int, turn: float) -> Callable[[float, float, float], str]:
    """A star of `num` thin arms, as an outline that can be filled."""
    corners = []
    for i in range(num):
        angle = turn + 2 * math.pi * i / num
        for side, radius in ((-0.28, 1.25), (0.28, 1.25), (math.pi / num, 0.42)):
            corners.append((radius * math.cos(angle + side), radius * math.sin(angle + side)))
    return _polygon(*corners)


SHAPE = (
    _disc,
    _polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    _polygon((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    _polygon((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    _arms(4, math.pi / 4),
    _polygon((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    _arms(4, 0),
)
