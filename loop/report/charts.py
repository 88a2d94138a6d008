"""Charts as inline SVG, drawn by matplotlib. This is the only file of the report that imports it.

The colors are CSS variables of the page (`--c0`, `--ink`), so one chart suits light and dark. What matplotlib writes is parsed and written
anew: no style, no script, no font of its own, so a strict Content-Security-Policy allows it. Only numbers and words of this project are
drawn; names that a user chose stand in the legend, which is HTML. So must it stay.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

WIDTH, HEIGHT = 5.0, 3.0
"""In inches of 72 points: 360 by 216, so that a chart fits a phone at its own size."""
POINTS = 72
"""Points per inch, so that a pixel of matplotlib is a point."""
SIDES = [(8, 8), (8, -8), (11, 0), (-8, 8), (-8, -8), (-11, 0), (0, 11), (0, -11)]
"""Where the middle of a short label of a point may stand, in points from it."""
INK, FAINT = "#fe0001", "#fe0002"
PALETTE = [f"#fe01{number:02x}" for number in range(11)]
"""Colors that stand for variables of the page: as many as a round has stages."""
EDGE = 0.03
"""How far an axis of shares goes beyond 0 and 100 %."""
VARIABLES = {INK: "var(--ink)", FAINT: "var(--rule)"} | {colour: f"var(--c{number})" for number, colour in enumerate(PALETTE)}
KEPT = {
    "fill",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "stroke-dashoffset",
    "opacity",
    "fill-opacity",
    "text-anchor",
    "stroke-opacity",
}
_SIZE = re.compile(r"([0-9.]+)px")


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a chart. ends: its 95 % interval. label: a short text beside it. shift: how far beside its place it is drawn, so that
    points of several series do not hide each other."""

    x: float
    y: float
    ends: tuple[float, float] | None = None
    label: str = ""
    shift: float = 0.0


@dataclass(frozen=True)
class Series:
    """Points that belong together. colour: its number in the palette. dashed: for the second of two runs. joined: drawn as a line.

    is_path: joined by dots, for points whose order says something, but not what is between them.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    joined: bool = True
    is_path: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawn chart. legend: (number of the color, whether dashed, name). headers, rows: the same as a table."""

    title: str
    note: str
    svg: str
    legend: list[tuple[int, bool, str]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def line_chart(
    title: str,
    note: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    ticks: Sequence[tuple[float, str]] | None = None,
    level: float | None = None,
    percent: bool = False,
) -> Chart | None:
    """Series over numbers, with 95 % intervals. None where no series has a point.

    ticks: (place, text) on the x axis, where they are not those of matplotlib. level: a horizontal line to compare with.
    """
    shown = [one for one in series if one.points]
    if not shown:
        return None
    figure, axes = _axes(x_label, y_label, percent)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
    for one in shown:
        _draw(axes, one)
    if ticks:
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.margins(x=0.06, y=0.12)
    if ticks and not any(one.joined for one in shown):  # places of things, which have no middle between them
        axes.set_xlim(min(place for place, _ in ticks) - 0.5, max(place for place, _ in ticks) + 0.5)
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -EDGE), min(high, 1 + EDGE))
    _label(axes, [point for one in shown for point in one.points])
    names = dict(ticks or ())
    rows = [
        [one.name, point.label or names.get(point.x) or _text(point.x), _text(point.y), *_ends(point)]
        for one in shown
        for point in one.points
    ]
    legend = [(one.colour, one.dashed, one.name) for one in shown] if len(shown) > 1 else []
    return Chart(title, note, _svg(figure, title), legend, ["", x_label, y_label, "from", "to"], rows)


def bar_chart(
    title: str,
    note: str,
    parts: Sequence[tuple[str, Sequence[float]]],
    ticks: Sequence[str],
    x_label: str,
    y_label: str,
) -> Chart | None:
    """Stacked bars, one for each tick. parts: (name, a height for each tick). None where there is nothing to draw."""
    if not ticks or not any(any(heights) for _, heights in parts):
        return None
    figure, axes = _axes(x_label, y_label, False)
    bottom = [0.0] * len(ticks)
    for number, (_, heights) in enumerate(parts):
        axes.bar(range(len(ticks)), heights, 0.66, bottom, color=PALETTE[number % len(PALETTE)], linewidth=0)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(range(len(ticks)), ticks)
    rows = [[name, tick, _text(height)] for name, heights in parts for tick, height in zip(ticks, heights, strict=True)]
    legend = [(number % len(PALETTE), False, name) for number, (name, _) in enumerate(parts)]
    return Chart(title, note, _svg(figure, title), legend, ["", x_label, y_label], rows)


def _draw(axes: Any, one: Series) -> None:
    colour, places, heights = PALETTE[one.colour % len(PALETTE)], [p.x + p.shift for p in one.points], [p.y for p in one.points]
    many = len(places) > 40
    style = (0, (4, 2)) if one.dashed else "-"
    axes.plot(
        places,
        heights,
        color=colour,
        linewidth=1.2 if many else 1.6,
        linestyle=style if one.joined else (0, (1, 3)) if one.is_path else "",
        marker="" if many else "o",
        markersize=4.5,
        markerfacecolor=colour,
        markeredgewidth=0,
    )
    if not many:
        for point in one.points:
            if point.ends:
                axes.plot([point.x + point.shift] * 2, point.ends, color=colour, linewidth=1.2, alpha=0.55)


def _label(axes: Any, points: Sequence[Point]) -> None:
    """Write the labels of points, each on the side where there is most room."""
    axes.autoscale_view()
    drawn = [(point.x, y) for point in points for y in (point.y, *(point.ends or ()))]
    taken = [tuple(place) for place in axes.transData.transform(drawn)]
    for point in points:
        if point.label:
            x, y = axes.transData.transform((point.x, point.y))
            wide = 1 + 0.4 * (len(point.label) - 1)
            sides = [(wide * right, up) for right, up in SIDES]
            side = max(sides, key=lambda side: min(math.hypot(x + side[0] - other[0], y + side[1] - other[1]) for other in taken))
            taken.append((x + side[0], y + side[1]))
            style = {"ha": "center", "va": "center", "fontsize": 8.5, "color": INK}
            axes.annotate(point.label, (point.x, point.y), side, textcoords="offset points", **style)


def _axes(x_label: str, y_label: str, percent: bool) -> tuple[Any, Any]:
    """An empty figure and its axes. matplotlib's state of the whole process (pyplot) is left alone."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=POINTS, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK, fontsize=10)
    axes.set_ylabel(y_label, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    """The figure as SVG that can stand in HTML. The title also makes the identifiers in it different from those of other charts."""
    import matplotlib

    written = io.StringIO()
    figure.patch.set_visible(False)
    figure.axes[0].patch.set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return clean(written.getvalue(), title)


def clean(text: str, title: str) -> str:
    """SVG without namespaces, styles, scripts, metadata and identifiers that nothing names, and with the page's colors."""
    root = ElementTree.fromstring(text)
    named = set(re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", text))
    used = {name for pair in named for name in pair if name}
    _rewrite(root, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, used: set[str]) -> None:
    """Rewrite an element and all that is in it."""
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if attributes.get("id") not in used:
        attributes.pop("id", None)
    declared = dict(part.split(":", 1) for part in attributes.pop("style", "").split(";") if ":" in part)
    for name, value in ((name.strip(), value.strip()) for name, value in declared.items()):
        if name in KEPT:
            attributes[name] = value
        elif name in ("font", "font-size") and (size := _SIZE.search(value)):
            attributes["font-size"] = size[1]
    element.attrib.clear()
    element.attrib.update({name: VARIABLES.get(value, value) for name, value in attributes.items()})
    for child in list(element):
        if not isinstance(child.tag, str) or _local(child.tag) in ("metadata", "style", "script"):
            element.remove(child)
        else:
            _rewrite(child, used)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _text(value: float) -> str:
    return f"{value:.4g}"


def _ends(point: Point) -> tuple[str, str]:
    return (_text(point.ends[0]), _text(point.ends[1])) if point.ends else ("", "")
