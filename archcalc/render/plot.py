"""A figure as a picture, SVG or PNG, the same bytes each time. The only module that imports matplotlib.

No pyplot: nothing global is kept and no window system is asked for. Text is drawn as outlines of the font that
matplotlib brings along, so a picture looks the same everywhere; characters that it lacks are written as escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from archcalc.documents.sweep.figure import Figure, Panel
from archcalc.errors import harmless
from archcalc.render import sheet as look
from archcalc.render.axes import (
    bar_ticks,
    heights,
    length_ticks,
    linear_scale,
    linear_ticks,
    log_ticks,
    value_text,
)
from archcalc.render.legend import Entry, curve_entries, guide_entries
from archcalc.render.seal import sealed

Form = Literal["svg", "png"]

DPI = 150
"""Dots an inch of PNG pictures."""

FONT = "DejaVu Sans"

_SETTINGS: Any = {
    "font.family": [FONT],
    "font.size": look.TEXT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "archcalc",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "text.usetex": False,
}


def picture(figure: Figure, form: Form, units: str = "gib") -> bytes:
    """The bytes of a picture. `units` is gib, gb or bytes."""
    with _settings():
        sheet = _Drawing(figure, units).sheet
        out = BytesIO()
        about: dict[str, Any] = {"Date": None, "Creator": "archcalc"} if form == "svg" else {"Software": None}
        sheet.savefig(out, format=form, dpi=DPI if form == "png" else 72, metadata=about)
    return sealed(out.getvalue(), figure, units) if form == "svg" else out.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib's defaults and ours on top, whatever the user's matplotlibrc says; put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


class _Pen:
    """Measures text before it is drawn."""

    def __init__(self) -> None:
        untyped: Any = RendererAgg
        self.renderer: Any = untyped(72, 72, 72)
        self.known = get_font(findfont(FontProperties(family=FONT))).get_charmap()

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        """Width of a text [inches]."""
        font = FontProperties(family=FONT, size=size, weight=weight)
        return float(self.renderer.get_text_width_height_descent(text, font, False)[0]) / 72

    def lines(self, text: str, size: float, room: float, most: int = 1, weight: str = "normal") -> list[str]:
        """The text in at most `most` lines of `room` inches, in characters that print and that the font has."""
        clean = "".join(
            c if ord(c) in self.known else c.encode("unicode_escape").decode("ascii") for c in harmless(text)
        )
        return look.cut(clean, lambda part: self.width(part, size, weight), room, most)


class _Drawing:
    """One sheet while it is drawn: heading, panels, legend, from the top down [inches]."""

    def __init__(self, figure: Figure, units: str) -> None:
        self.figure, self.units, self.pen = figure, units, _Pen()
        self.grid = look.grid(len(figure.panels))
        room = self.grid.sheet_width - 2 * look.MARGIN
        title = self.pen.lines(figure.title, look.TITLE, room, 2, "bold")
        setting = self.pen.lines(figure.setting, look.TEXT, room, 2)
        legend = _Legend(figure, units, self.pen, room)
        named = any(panel.title for panel in figure.panels)
        judged = any(panel.verdict or any(m.text for m in panel.marks) for panel in figure.panels)
        self.above = look.GAP + look.VERDICT * judged + look.TEXT_LINE * named
        self.head = look.MARGIN + look.TITLE_LINE * len(title) + look.TEXT_LINE * len(setting) + 0.06
        second = any(panel.below for panel in figure.panels)
        self.row = self.above + self.grid.height + look.BELOW + look.SECOND * second
        self.height = self.head + self.grid.rows * self.row + legend.height + 0.1
        self.sheet = Sheet(figsize=(self.grid.sheet_width, self.height), facecolor="white")
        FigureCanvasAgg(self.sheet)
        self._heading(title, setting)
        self.low, self.top = heights(figure)
        for n, panel in enumerate(figure.panels):
            self._panel(n, panel)
        legend.draw(self.sheet)

    def _heading(self, title: list[str], setting: list[str]) -> None:
        y = self.height - look.MARGIN
        for line in title:
            self._write(look.MARGIN, y, line, size=look.TITLE, weight="bold", color=look.INK, va="top")
            y -= look.TITLE_LINE
        for line in setting:
            self._write(look.MARGIN, y, line, size=look.TEXT, color=look.FAINT, va="top")
            y -= look.TEXT_LINE

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text at a place of the sheet [inches from its lower left]."""
        self.sheet.text(x / self.grid.sheet_width, y / self.height, text, **style)

    def _panel(self, n: int, panel: Panel) -> None:
        grid, shape = self.grid, self.figure.shape
        row, column = divmod(n, grid.columns)
        left = look.LEFT + column * (grid.width + look.BETWEEN)
        top = self.height - self.head - row * self.row - self.above
        width, height = grid.width / grid.sheet_width, grid.height / self.height
        axes = self.sheet.add_axes((left / grid.sheet_width, (top - grid.height) / self.height, width, height))
        _SHAPES[shape](axes, panel)
        self._across(axes, panel)
        self._up(axes, first=column == 0)
        _edges(axes, panel, bars=shape == "bars")
        for text in self.pen.lines(panel.title, 9.5, grid.width, 1, "bold"):
            y = top + self.above - look.TEXT_LINE
            self._write(left, y, text, size=9.5, weight="bold", color=look.INK)
        self._verdict(axes, panel, left, top + 0.08)

    def _across(self, axes: Axes, panel: Panel) -> None:
        """The horizontal axis: a place for each bar, or lengths on a logarithmic scale."""
        figure = self.figure
        axes.set_xlabel(figure.x_label, color=look.INK, labelpad=4)
        if figure.shape == "bars":
            axes.set_xlim(-0.6, len(panel.xs) - 0.4)
            ticks = bar_ticks(panel, figure.across.unit, int(self.grid.width / (0.55 if panel.below else 0.3)))
        else:
            axes.set_xscale("log", base=2)
            axes.set_xlim(panel.xs[0], panel.xs[-1])
            ticks = length_ticks(panel.xs[0], panel.xs[-1], int(self.grid.width / 0.45))
        axes.set_xticks([tick.at for tick in ticks], [tick.text for tick in ticks])
        axes.minorticks_off()

    def _up(self, axes: Axes, *, first: bool) -> None:
        """The vertical axis, the same for all panels; its text stands beside the first column only."""
        figure, unit = self.figure, self.figure.y_unit
        if figure.shape == "lines":
            axes.set_yscale("log", base=10)
            low, high, label = self.low * 4 // 5, self.top * 5 // 4 + 1, figure.y_label
            ticks = log_ticks(low, high, unit, self.units, 8)
        else:
            low, high, scale = 0, self.top * 27 // 25 + 1, linear_scale(self.top, unit, self.units)
            ticks, label = linear_ticks(high, scale, 8), f"{figure.y_label} [{scale.name}]"
        axes.set_ylim(low, high)
        axes.set_yticks([tick.at for tick in ticks], [tick.text if first else "" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", color=look.GRID, linewidth=0.6, zorder=0)
        axes.tick_params(colors=look.INK, labelsize=look.SMALL)
        if first:
            axes.set_ylabel(label, color=look.INK)

    def _verdict(self, axes: Axes, panel: Panel, left: float, y: float) -> None:
        """Above a panel: the text of its mark, over the mark's place, or else its verdict."""
        mark = next((mark for mark in panel.marks if mark.text), None)
        width = self.grid.width
        if mark is None:
            for line in self.pen.lines(panel.verdict, look.SMALL, width):
                self._write(left, y, line, size=look.SMALL, color=look.FAINT)
            return
        text = f"{mark.text} {value_text(mark.y, self.figure.y_unit, self.units)}" if mark.valued else mark.text
        text = self.pen.lines(text, look.SMALL, width)[0]
        half = self.pen.width(text, look.SMALL) / 2
        at = panel.xs.index(mark.x) if self.figure.shape == "bars" else mark.x
        share = float(axes.transAxes.inverted().transform(axes.transData.transform((at, 1)))[0])
        middle = min(max(left + share * width, left + half), left + width - half)
        self._write(middle, y, text, size=look.SMALL, color=look.INK, ha="center")


def _areas(axes: Axes, panel: Panel) -> None:
    base = (0,) * len(panel.xs)
    for curve in panel.curves:
        upper = tuple(a + b for a, b in zip(base, curve.values, strict=True))
        color, hatch = look.STACK[curve.hue]
        axes.fill_between(
            panel.xs, base, upper, facecolor=color, hatch=hatch, edgecolor="white", linewidth=0.0, zorder=2
        )
        axes.plot(panel.xs, upper, color="white", linewidth=1.0, zorder=2.5)
        base = upper


def _bars(axes: Axes, panel: Panel) -> None:
    base = (0,) * len(panel.xs)
    for curve in panel.curves:
        color, hatch = look.STACK[curve.hue]
        places = range(len(panel.xs))
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.7}
        axes.bar(places, curve.values, look.BAR, base, zorder=2, **style)
        base = tuple(a + b for a, b in zip(base, curve.values, strict=True))


def _lines(axes: Axes, panel: Panel) -> None:
    places = [panel.xs.index(x) for x in panel.points]
    for curve in panel.curves:
        style = look.line_style(curve.hue, curve.dash)
        axes.plot(panel.xs, curve.values, markevery=places, clip_on=False, zorder=3, **style)


_SHAPES: dict[str, Callable[[Axes, Panel], None]] = {"areas": _areas, "bars": _bars, "lines": _lines}


def _edges(axes: Axes, panel: Panel, *, bars: bool) -> None:
    """The limit, the model's own context limit, and the marks."""
    for limit in panel.limits:
        axes.axhline(limit.value, zorder=4, **look.LIMIT)
    if panel.edge:
        axes.axvline(panel.edge, zorder=3.5, **look.EDGE)
    for mark in panel.marks:
        if bars:
            axes.bar(panel.xs.index(mark.x), mark.y, look.BAR, zorder=3, **look.PEAK)
            continue
        if mark.text:
            foot = axes.get_ylim()[0]
            axes.plot([mark.x, mark.x], [foot, mark.y], color="black", linewidth=0.9, zorder=4.5)
        axes.plot(mark.x, mark.y, clip_on=False, zorder=5, **look.CROSSING)
    sheet = axes.get_figure()
    assert sheet is not None
    above = axes.transData + ScaledTranslation(0, 6 / 72, sheet.dpi_scale_trans)
    for n, total in enumerate(panel.totals()):
        if bars and panel.over(total):
            axes.plot(n, total, clip_on=False, zorder=6, transform=above, **look.UNFIT)


def _handle(entry: Entry) -> Patch | Line2D:
    """The sample beside an entry's text."""
    return Patch(**entry.style) if entry.area else Line2D([], [], **entry.style)


class _Legend:
    """The legend, below all panels and over none of them: curves first, then limits and signs."""

    def __init__(self, figure: Figure, units: str, pen: _Pen, room: float) -> None:
        self.blocks: list[tuple[list[Entry], int]] = []
        self.height = 0.0
        for found in (curve_entries(figure), guide_entries(figure, units)):
            entries = [e._replace(text=pen.lines(e.text, look.SMALL, room - 0.7)[0]) for e in found]
            if entries:
                widest = max(pen.width(entry.text, look.SMALL) for entry in entries) + 0.7
                columns = max(1, min(len(entries), int(room / widest)))
                self.blocks.append((entries, columns))
                self.height += look.LEGEND_LINE * -(-len(entries) // columns) + look.LEGEND_GAP

    def draw(self, sheet: Sheet) -> None:
        """Onto the sheet, from the top down."""
        width, height = sheet.get_size_inches()
        y = self.height + 0.1
        for entries, columns in self.blocks:
            legend = sheet.legend(
                [_handle(entry) for entry in entries],
                [str(n) for n in range(len(entries))],
                loc="upper left",
                bbox_to_anchor=(look.MARGIN / width, y / height),
                borderaxespad=0.0,
                borderpad=0.0,
                ncols=columns,
                frameon=False,
                fontsize=look.SMALL,
                handlelength=2.6,
                handleheight=1.1,
                labelspacing=0.45,
            )
            # matplotlib drops labels that start with an underscore: the texts are set after the fact.
            for label, entry in zip(legend.get_texts(), entries, strict=True):
                label.set_text(entry.text)
            y -= look.LEGEND_LINE * -(-len(entries) // columns) + look.LEGEND_GAP
