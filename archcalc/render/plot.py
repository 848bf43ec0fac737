"""A figure as a picture, SVG or PNG, the same bytes each time. Only this module and `shapes` import matplotlib.

No pyplot: nothing global is kept and no window system is asked for. Text is drawn as outlines of the font that
matplotlib brings along, so a picture looks the same everywhere; characters that it lacks are written as escapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from archcalc.documents.sweep.figure import Figure, Panel
from archcalc.errors import harmless
from archcalc.limits import BARS, hold
from archcalc.render import sheet as look
from archcalc.render.axes import (
    bar_ticks,
    heights,
    length_ticks,
    upright,
    value_text,
)
from archcalc.render.legend import Entry, curve_entries, guide_entries
from archcalc.render.seal import sealed
from archcalc.render.shapes import SHAPES, breaks, edges, share
from archcalc.units import format_context, format_int

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
    """The bytes of a picture. `units` is gib, gb or bytes. Raises InputError for more bars than are drawn."""
    if figure.shape == "bars":
        hold(BARS, sum(len(panel.xs) for panel in figure.panels))
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
        self.heights = heights(figure)
        self.up = upright(figure, units, 8)
        ticks = max(self.pen.width(tick.text, look.SMALL) for tick in self.up.ticks)
        self.grid = look.grid(len(figure.panels), ticks, self._beside())
        room = self.grid.sheet_width - 2 * look.MARGIN
        title = self.pen.lines(figure.title, look.TITLE, room, 2, "bold")
        setting = self.pen.lines(figure.setting, look.TEXT, room, 2)
        legend = _Legend(figure, units, self.pen, room)
        titles = [self.pen.lines(p.title, 9.5, self.grid.step - 0.1, 3, "bold") for p in figure.panels]
        judged = any(panel.verdict or any(m.text for m in panel.marks) for panel in figure.panels)
        self.signs = look.SIGNS * (figure.shape == "bars" and self.heights.cut)
        self.cut = (look.CUT + self.signs) * self.heights.cut
        self.named = 0.08 + self.cut + look.VERDICT * judged
        self.above = look.GAP + self.named - 0.08 + look.TEXT_LINE * max(map(len, titles))
        self.head = look.MARGIN + look.TITLE_LINE * len(title) + look.TEXT_LINE * len(setting) + 0.06
        second = any(panel.below for panel in figure.panels)
        self.row = self.above + self.grid.height + look.BELOW + look.SECOND * second
        self.height = self.head + self.grid.rows * self.row + legend.height + 0.1
        self.sheet = Sheet(figsize=(self.grid.sheet_width, self.height), facecolor="white")
        FigureCanvasAgg(self.sheet)
        self._heading(title, setting)
        for n, (panel, lines) in enumerate(zip(figure.panels, titles, strict=True)):
            self._panel(n, panel, lines)
        legend.draw(self.sheet)

    def _beside(self) -> float:
        """Room for the limits' texts at the ends of their lines [inches]."""
        limits = {self._value(limit.value) for panel in self.figure.panels for limit in panel.limits}
        return look.STUB + max(self.pen.width(text, look.SMALL) for text in limits) if limits else 0.0

    def _value(self, value: int) -> str:
        return value_text(value, self.figure.y_unit, self.units)

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

    def _panel(self, n: int, panel: Panel, title: list[str]) -> None:
        grid, shape = self.grid, self.figure.shape
        row, column = divmod(n, grid.columns)
        left = grid.left + column * grid.step
        top = self.height - self.head - row * self.row - self.above
        width, height = grid.width / grid.sheet_width, grid.height / self.height
        axes = self.sheet.add_axes((left / grid.sheet_width, (top - grid.height) / self.height, width, height))
        SHAPES[shape](axes, panel)
        self._across(axes, panel)
        self._up(axes, first=column == 0)
        edges(axes, panel, self.heights, bars=shape == "bars")
        y = top + self.named + look.TEXT_LINE * (len(title) - 1)
        for text in title:
            self._write(left, y, text, size=9.5, weight="bold", color=look.INK)
            y -= look.TEXT_LINE
        self._verdict(axes, panel, left, top + 0.08 + self.cut)
        self._limits(axes, panel, left, top)
        if self.heights.cut:
            self._cut_off(axes, panel, left, top + 0.08 + self.signs)

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
        low, high, ticks, (_, unit) = self.up
        if not unit:
            axes.set_yscale("log", base=10)
        axes.set_ylim(low, high)
        axes.set_yticks([tick.at for tick in ticks], [tick.text if first else "" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", color=look.GRID, linewidth=0.6, zorder=0)
        axes.tick_params(colors=look.INK, labelsize=look.SMALL)
        if first:
            axes.set_ylabel(self.figure.y_label + (f" [{unit}]" if unit else ""), color=look.INK)

    def _verdict(self, axes: Axes, panel: Panel, left: float, y: float) -> None:
        """Above a panel: the text of its mark, over the mark's place, or else its verdict."""
        mark = next((mark for mark in panel.marks if mark.text), None)
        width = self.grid.width
        if mark is None:
            for line in self.pen.lines(panel.verdict, look.SMALL, width):
                self._write(left, y, line, size=look.SMALL, color=look.FAINT)
            return
        text = f"{mark.text} {self._value(mark.y)}" if mark.valued else mark.text
        self._over(axes, panel.xs.index(mark.x) if self.figure.shape == "bars" else mark.x, left, y, text)

    def _over(self, axes: Axes, at: int, left: float, y: float, text: str) -> None:
        """Text above a panel over one of its places, within the panel."""
        width = self.grid.width
        text = self.pen.lines(text, look.SMALL, width)[0]
        half = self.pen.width(text, look.SMALL) / 2
        middle = min(max(left + share(axes, at) * width, left + half), left + width - half)
        self._write(middle, y, text, size=look.SMALL, color=look.INK, ha="center")

    def _limits(self, axes: Axes, panel: Panel, left: float, top: float) -> None:
        """Right of a panel, at the end of each limit's line: its height, and what it is where there is room."""
        limits, room = sorted(set(panel.limits)), self.grid.beside - look.STUB
        texts = [[self._value(limit.value)] for limit in limits]
        for limit, text in zip(limits, texts, strict=True):
            text += [part for words in limit.short for part in self.pen.lines(words, look.SMALL, room)]
        if sum(map(len, texts)) * look.SMALL_LINE > self.grid.height:
            texts = [text[:1] for text in texts]
        foot, height = top - self.grid.height, self.grid.height
        at = [share(axes, limit.value, up=True) * height for limit in limits]
        places = look.spread(at, [len(text) * look.SMALL_LINE for text in texts], height)
        x = left + self.grid.width
        for line, place, text in zip(at, places, texts, strict=True):
            self._stroke((x, x + look.STUB * 0.7), (foot + line, foot + place))
            y = foot + place + look.SMALL_LINE * (len(text) - 1) / 2
            for part in text:
                self._write(x + look.STUB, y, part, size=look.SMALL, color=look.INK, va="center")
                y -= look.SMALL_LINE

    def _stroke(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        """A thin line on the sheet [inches]."""
        wide, high = self.grid.sheet_width, self.height
        self.sheet.add_artist(Line2D([x / wide for x in xs], [y / high for y in ys], **look.STROKE))

    def _cut_off(self, axes: Axes, panel: Panel, left: float, y: float) -> None:
        """The break of what passes the axis's end, and its height above it: of each bar, or of the highest alone where
        they are narrow or areas, unless its mark has it."""
        bars = self.figure.shape == "bars"
        totals = {n: total for n, total in enumerate(panel.totals()) if total > self.heights.top}
        if not totals:
            return
        breaks(axes, panel, list(totals), bars=bars)
        scale, room = self.up.scale.size, self.grid.width / (len(panel.xs) + 0.2)
        short = {n: f"↑ {format_int(round(total / scale))}" for n, total in totals.items()}
        if bars and max(self.pen.width(text, look.SMALL) for text in short.values()) < room:
            for n, text in short.items():
                self._over(axes, n, left, y, text)
            return
        highest = max(totals, key=totals.__getitem__)
        if any(mark.valued and mark.x == panel.xs[highest] for mark in panel.marks):
            return
        at = "" if bars else f" at {format_context(panel.xs[highest])}"
        place = highest if bars else panel.xs[highest]
        self._over(axes, place, left, y, f"↑ {self._value(totals[highest])}{at}")


def _handles(entry: Entry) -> Any:
    """The samples beside an entry's text: a tuple, which matplotlib's types don't know of."""
    return tuple(Patch(**style) if entry.area else Line2D([], [], **style) for style in entry.styles)


def _sample(several: int) -> float:
    """Width of a legend's samples where the widest has so many [sizes of type]."""
    return max(look.SAMPLE, several * look.SAMPLES)


def _beside(several: int) -> float:
    """What an entry takes beside its text [inches]."""
    return _sample(several) * look.SMALL / 72 + 0.38


class _Legend:
    """The legend, below all panels and over none of them: curves first, then limits and signs."""

    def __init__(self, figure: Figure, units: str, pen: _Pen, room: float) -> None:
        self.blocks: list[tuple[list[Entry], int, int]] = []
        self.height = 0.0
        most = max(len(line.curves) for line in figure.panels[0].lines) if figure.shape == "lines" else 1
        for several, found in (
            (most, curve_entries(figure, lambda text: len(pen.lines(text, look.SMALL, room - _beside(most), 2)) == 1)),
            (1, guide_entries(figure, units)),
        ):
            beside = _beside(several)
            entries = [e._replace(text=pen.lines(e.text, look.SMALL, room - beside)[0]) for e in found]
            if entries:
                widest = max(pen.width(entry.text, look.SMALL) for entry in entries) + beside
                columns = max(1, min(len(entries), int(room / widest)))
                self.blocks.append((entries, columns, several))
                self.height += look.LEGEND_LINE * -(-len(entries) // columns) + look.LEGEND_GAP

    def draw(self, sheet: Sheet) -> None:
        """Onto the sheet, from the top down."""
        width, height = sheet.get_size_inches()
        y = self.height + 0.1
        for entries, columns, several in self.blocks:
            legend = sheet.legend(
                [_handles(entry) for entry in entries],
                [str(n) for n in range(len(entries))],
                loc="upper left",
                bbox_to_anchor=(look.MARGIN / width, y / height),
                borderaxespad=0.0,
                borderpad=0.0,
                ncols=columns,
                frameon=False,
                fontsize=look.SMALL,
                handlelength=_sample(several),
                handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
                handleheight=1.1,
                labelspacing=0.45,
            )
            # matplotlib drops labels that start with an underscore: the texts are set after the fact.
            for label, entry in zip(legend.get_texts(), entries, strict=True):
                label.set_text(entry.text)
            y -= look.LEGEND_LINE * -(-len(entries) // columns) + look.LEGEND_GAP
