"""Pictures and text plots: the same bytes each time, nothing over anything else, hostile text harmless."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from archcalc.documents.sweep.cases import CONTEXT, Model, Range, cases, models
from archcalc.documents.sweep.curves import Curve, lines
from archcalc.documents.sweep.figure import Figure, Layer, Limit, Mark, Rows, series
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import memory_figure
from archcalc.documents.sweep.training import train_figure, training_memory_figure, trainings
from archcalc.files.loader import load_spec
from archcalc.render import plot, textplot, textstyle
from archcalc.render.axes import bar_ticks, heights, length_ticks, linear_scale, linear_ticks, log_ticks
from archcalc.render.sheet import BROKEN, LINES, cut, piece_style, spread
from archcalc.units import format_bytes
from tests.support import ROOT

RANGE = Range(4096, 262144)
HOSTILE = '_<script>alert(1)</script> $\\frac{1}{2}$ & "q" --> ]]> \n\x1b[31m \u202e \u4e2d ' + "W" * 300


def memory(specs: list[str], dtypes: list[str], batches: list[int], gpu: str | None = "h200") -> Figure:
    return memory_figure(cases(models(specs), dtypes, batches), RANGE, [gpu] if gpu else [], tp=8)


def on_gpus(specs: list[str], batches: list[int]) -> Figure:
    return memory_figure(cases(models(specs), ["bf16"], batches), RANGE, ["h200", "b200"], gpus=8)


def train(specs: list[str], *overrides: str) -> Figure:
    return train_figure(trainings(models(specs), ["k2-pretrain"], overrides))


def sweep(specs: list[str], *overrides: str) -> Figure:
    return training_memory_figure(trainings(models(specs), ["k2-pretrain"], overrides), Range(1024, 32768))


def dwarfed() -> Figure:
    return memory_figure(cases(models(["k25"]), ["bf16"], [1, 512]), RANGE, ["h200"], gpus=8)


EQUALS = ["k25", "kimi-k2", "deepseek-v3"]
"""61 layers of the same attention each, and the first two of the same size in all else that computes."""


FIGURES = {
    "memory": lambda: memory(["k25"], ["bf16"], [8]),
    "memory past the range": lambda: memory(["k25"], ["bf16"], [1]),
    "memory without a limit": lambda: memory(["k25"], ["bf16"], [1], gpu=None),
    "memory of two": lambda: memory(["k25", "llama-3.1-405b"], ["bf16"], [8]),
    "memory of four": lambda: memory(["k25"], ["bf16", "fp8"], [8, 32]),
    "memory of six": lambda: memory(["k25", "llama-3.1-405b", "deepseek-v3"], ["bf16", "fp8"], [4]),
    "memory as lines": lambda: memory(["k25", "llama-3.1-405b"], ["bf16", "fp8"], [4, 16, 64]),
    "memory of two GPUs": lambda: on_gpus(["k25"], [16]),
    "memory of six on GPUs": lambda: on_gpus(["k25", "llama-3.1-405b", "deepseek-v3"], [16]),
    "memory on GPUs as lines": lambda: on_gpus(["k25", "llama-3.1-405b"], [4, 64]),
    "memory past four limits": lambda: dwarfed(),
    "memory past four limits as lines": lambda: memory(["k25"], ["bf16"], [1, 2, 4, 8, 16, 32, 512]),
    "kv of equals": lambda: kv_figure(cases(models(EQUALS), ["bf16", "fp8"], [1]), RANGE),
    "flops of equals": lambda: flops_figure(cases(models(EQUALS), [""], [1]), RANGE),
    "kv": lambda: kv_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 8]), RANGE),
    "kv of one": lambda: kv_figure(cases(models(["k25"]), ["bf16"], [1]), Range(5000, 6000)),
    "flops": lambda: flops_figure(cases(models(["k25"]), [""], [1]), RANGE),
    "flops of three": lambda: flops_figure(cases(models(["k25", "llama-3.1-405b", "llama-3.1-70b"]), [""], [1]), RANGE),
    "train": lambda: train(["kimi-k2"]),
    "train of two": lambda: train(["kimi-k2", "k25"]),
    "train that does not fit": lambda: train(["k25"], "activations.offload=none", "activations.recompute=[]"),
    "memory under a plan": lambda: sweep(["kimi-k2"]),
    "memory of two under a plan": lambda: sweep(["kimi-k2", "k25"]),
    "memory past four limits under a plan": lambda: sweep(["kimi-k2"], "activations.offload=none"),
}


@pytest.fixture(scope="module", params=FIGURES)
def figure(request: pytest.FixtureRequest) -> Figure:
    return FIGURES[request.param]()


def hostile() -> Figure:
    bad = Model("bad", HOSTILE, load_spec("llama-3.1-70b"))
    return kv_figure(cases([bad, *models(["k25"])], ["bf16"], [1]), RANGE)


# ------------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_figure_gives_the_same_bytes(form: plot.Form) -> None:
    assert plot.picture(FIGURES["memory"](), form) == plot.picture(FIGURES["memory"](), form)


def test_bytes_do_not_depend_on_the_process_or_its_hash_seed() -> None:
    code = (
        "import hashlib; from tests.render.test_plot import FIGURES; from archcalc.render.plot import picture\n"
        "for form in ('svg', 'png'): print(hashlib.sha256(picture(FIGURES['memory of two'](), form)).hexdigest())"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, zone in (("0", "UTC"), ("1", "Asia/Tokyo"))
    ]
    first, second = (run.communicate(timeout=120)[0].split() for run in runs)
    here = [hashlib.sha256(plot.picture(FIGURES["memory of two"](), form)).hexdigest() for form in ("svg", "png")]
    assert first == second == here


def test_a_users_own_matplotlib_settings_change_nothing_and_are_kept() -> None:
    before = plot.picture(FIGURES["kv"](), "svg")
    with matplotlib.rc_context({"lines.linewidth": 20, "font.size": 30, "svg.fonttype": "none", "figure.dpi": 300}):
        assert plot.picture(FIGURES["kv"](), "svg") == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", ["memory", "kv", "flops of three", "train that does not fit"])
def test_svg_is_well_formed_and_says_neither_date_nor_version(name: str) -> None:
    svg = plot.picture(FIGURES[name](), "svg").decode()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<dc:date>" not in svg
    assert "matplotlib v" not in svg.lower()
    assert matplotlib.__version__ not in svg


def test_png_has_its_signature_its_size_and_no_text_about_software() -> None:
    png = plot.picture(FIGURES["memory"](), "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    # One panel: 1.1 + 6.6 + 0.35 inches at 150 dots an inch, 1207.5.
    assert width == 1207
    assert 500 < height < 1500
    assert b"Software" not in png
    assert b"tIME" not in png


# ----------------------------------------------------------------------------------------------- layout


def boxes(figure: Figure, units: str = "gib") -> tuple[list[tuple[str, Bbox]], list[Bbox], Bbox]:
    """Every visible text of a sheet with its box, the boxes of the panels, and the sheet's own."""
    with plot._settings():
        sheet = plot._Drawing(figure, units).sheet
        sheet.draw_without_rendering()
        texts = [
            (text.get_text(), text.get_window_extent())
            for text in sheet.findobj(Text)
            if text.get_visible() and text.get_text().strip()
        ]
        return texts, [axes.get_window_extent() for axes in sheet.axes], sheet.bbox.frozen()


def overlap(one: Bbox, other: Bbox) -> bool:
    both: Bbox | None = Bbox.intersection(one, other)
    return both is not None and both.width > 0.5 and both.height > 0.5


@pytest.mark.parametrize("units", ["gib", "bytes"])
def test_no_text_stands_over_another_over_a_panel_or_off_the_sheet(figure: Figure, units: str) -> None:
    check_layout(figure, units)


def test_long_hostile_names_overlap_nothing_either() -> None:
    check_layout(hostile())
    check_layout(memory_figure_of_hostile())


def memory_figure_of_hostile() -> Figure:
    bad = Model("bad", HOSTILE, load_spec("llama-3.1-70b"))
    return memory_figure(cases([bad, *models(["k25"])], ["bf16"], [1, 8]), RANGE, ["h200"], tp=8)


def check_layout(figure: Figure, units: str = "gib") -> None:
    texts, panels, sheet = boxes(figure, units)
    assert len(texts) >= 8
    for (a, one), (b, other) in combinations(texts, 2):
        assert not overlap(one, other), (a, b)
    for text, box in texts:
        assert sheet.x0 <= box.x0, text
        assert sheet.y0 <= box.y0, text
        assert box.x1 <= sheet.x1, text
        assert box.y1 <= sheet.y1, text
        assert not any(overlap(box, panel) for panel in panels), text


def test_a_crossing_is_named_above_its_place() -> None:
    texts, panels, _ = boxes(memory(["k25"], ["bf16"], [32]))
    (box,) = [box for text, box in texts if text.startswith("fits up to")]
    # 24,704 tokens lie log2(24704 / 4096) / log2(262144 / 4096) = 2.592 / 6 of the way across.
    share = ((box.x0 + box.x1) / 2 - panels[0].x0) / panels[0].width
    assert abs(share - 0.4321) < 0.01


@pytest.mark.parametrize("name", ["memory", "train", "memory as lines", "memory on GPUs as lines"])
def test_every_limit_is_named_at_the_end_of_its_line(name: str) -> None:
    figure = FIGURES[name]()
    with plot._settings():
        sheet = plot._Drawing(figure, "gib").sheet
        sheet.draw_without_rendering()
        (axes,) = sheet.axes
        panel, texts = axes.get_window_extent(), sheet.findobj(Text)
        assert figure.panels[0].limits
        for limit in figure.panels[0].limits:
            value = format_bytes(limit.value)
            (at,) = [text.get_window_extent() for text in texts if text.get_text() == value]
            assert 0 < at.x0 - panel.x1 < 0.15 * sheet.dpi
            line = float(axes.transData.transform((1, limit.value))[1])
            # A block of three lines, 0.14 inches each, is centred at the line, or pushed by no more than its height.
            assert abs((at.y0 + at.y1) / 2 - line) < 3 * 0.14 * sheet.dpi
            assert {text.get_text() for text in texts} >= set(limit.short)


def test_blocks_stand_at_their_places_or_beside_each_other_in_the_room() -> None:
    assert spread([1.0, 5.0], [1.0, 1.0], 10.0) == [1.0, 5.0]
    # The second one starts where the first ends: 1 + 1/2 + 1/2.
    assert spread([1.0, 1.5], [1.0, 1.0], 10.0) == [1.0, 2.0]
    # Pushed down from the room's end: 10 - 1/2, and the one below it.
    assert spread([9.8, 9.9], [1.0, 1.0], 10.0) == [8.5, 9.5]
    assert spread([0.0], [1.0], 10.0) == [0.5]
    assert spread([], [], 10.0) == []


# ------------------------------------------------------------------------------- lines on each other


def test_every_curve_of_those_that_lie_on_each_other_is_seen() -> None:
    figure = kv_figure(cases(models(EQUALS), ["bf16"], [1]), RANGE)
    with plot._settings():
        drawing = plot._Drawing(figure, "gib")
        canvas: Any = drawing.sheet.canvas
        canvas.draw()
        panel = drawing.sheet.axes[0].get_window_extent()
        width, height = canvas.get_width_height()
        pixels = bytes(canvas.buffer_rgba())
        seen = dict.fromkeys(LINES[:3], 0)
        for y in range(round(height - panel.y1), round(height - panel.y0)):
            for x in range(round(panel.x0), round(panel.x1)):
                at = 4 * (y * width + x)
                color = "#" + pixels[at : at + 3].hex().upper()
                if color in seen:
                    seen[color] += 1
    # A third each, less where a marker stands or edges are mixed with white.
    assert all(count > sum(seen.values()) / 5 for count in seen.values()), seen


@pytest.mark.parametrize("of", [2, 3, 12])
def test_dashes_of_curves_on_each_other_take_turns(of: int) -> None:
    inked = []
    for n in range(of):
        offset, (on, off) = piece_style(n, 0, n, of)["linestyle"]
        assert on + off == of * 6
        # At a distance d along the line there is ink where (d + offset) modulo the period is less than `on`.
        inked.append({d for d in range(of * 6) if (d + offset) % (on + off) < on})
    assert sorted(d for each in inked for d in each) == list(range(of * 6))
    assert [min(each) for each in inked] == [6 * n for n in range(of)]


def test_markers_of_curves_on_each_other_take_turns() -> None:
    figure = kv_figure(cases(models(EQUALS[:2]), ["bf16"], [1]), RANGE)
    with plot._settings():
        drawn: list[Any] = [line for line in plot._Drawing(figure, "gib").sheet.axes[0].lines if line.get_marker()]
    first, second = ({line.get_xdata()[n] for n in line.get_markevery()} for line in drawn)
    assert first == {4096, 16384, 65536, 262144}
    assert second == {8192, 32768, 131072}


def test_curves_on_each_other_have_one_name_in_the_legend_or_one_below_the_other() -> None:
    texts = [text for text, _ in boxes(FIGURES["flops of equals"]())[0]]
    # DeepSeek-V3 has the same attention, 61 layers of 128 heads against 64: no line of it is the same.
    assert "Kimi K2.5 = Kimi K2: linears" in texts
    assert "DeepSeek-V3: linears" in texts
    texts = [text for text, _ in boxes(FIGURES["memory on GPUs as lines"]())[0]]
    below = [text for text in texts if text.startswith("= ")]
    # Every model and batch on H200 and on B200: the names differ in the verdict too, and are too long for one line.
    assert len(below) == 4
    assert all("8 x b200" in text for text in below)


def test_curves_are_nearly_on_each_other_by_the_height_of_the_axis() -> None:
    def signs(*values: tuple[int, ...]) -> list[str]:
        return [line.label for line in lines([Curve(f"c{n}", each) for n, each in enumerate(values)])]

    assert signs((1, 1000), (1, 1000)) == ["c0 = c1"]
    # From 1000 to 1,000,000 are 9.97 doublings, of which 1/250 is 0.0399: 0.2 % are 0.0029 doublings, 5 % are 0.0704.
    assert signs((1000, 1_000_000), (1002, 1_000_000)) == ["c0 ≈ c1"]
    assert signs((1000, 1_000_000), (1050, 1_000_000)) == ["c0", "c1"]
    # The same 0.2 % are the whole height of an axis from 1000 to 1002.
    assert signs((1000, 1000), (1002, 1002)) == ["c0", "c1"]
    assert signs((0, 5), (0, 5), (5, 5)) == ["c0 = c1", "c2"]


# ---------------------------------------------------------------------------------------- cut off


def stacked(totals: Sequence[int], limit: int | None) -> Figure:
    (case,) = cases(models(["llama-3.1-70b"]), [""], [1])
    rows = {1024 << n: {"a": total} for n, total in enumerate(totals)}
    line = Limit(limit, "limit") if limit else None
    made = series(case, rows, [Layer("a", ("a",))], Range(1024, 1024 << (len(totals) - 1)), limit=line)
    return Figure(
        kind="memory",
        text="t",
        series=[made],
        shape="areas",
        across=CONTEXT,
        x_label="x",
        y_label="y",
        heading="",
        columns=(),
    )


def test_an_axis_ends_at_twice_the_limit_where_a_stack_passes_four_times_the_limit() -> None:
    assert heights(stacked([50, 400], 100)) == (50, 400, False)
    assert heights(stacked([50, 401], 100)) == (50, 200, True)
    assert heights(stacked([50, 4000], None)) == (50, 4000, False)
    assert heights(stacked([50, 60], 100)) == (50, 100, False)


def test_what_is_cut_off_is_broken_and_its_height_written_and_no_number_is() -> None:
    figure = dwarfed()
    one, many = figure.panels
    with plot._settings():
        drawing = plot._Drawing(figure, "gib")
        left, right = drawing.sheet.axes
        drawing.sheet.draw_without_rendering()
        texts = [text.get_text() for text in drawing.sheet.findobj(Text)]
        assert one.limit is not None
        assert left.get_ylim() == right.get_ylim() == (0, 2 * one.limit.value)
        width = BROKEN["linewidth"]
        broken = [sum(line.get_linewidth() == width for line in axes.lines) for axes in (left, right)]
    # 512 sequences hold 512 x 262,144 x 70,272 bytes of cache past the weights: 8,784 GiB.
    assert 512 * 262_144 * 70_272 == 8784 << 30
    assert many.totals()[-1] > 8784 << 30
    assert f"↑ {format_bytes(many.totals()[-1])} at 256k" in texts
    assert sum(text.startswith("↑") for text in texts) == 1
    assert broken == [0, 1]
    assert figure.report.rows is not None
    assert max(row["total_bytes"] for row in figure.report.rows.rows) == many.totals()[-1]


def test_every_bar_that_is_cut_off_says_its_height_and_no_other() -> None:
    figure = FIGURES["memory past four limits under a plan"]()
    (panel,) = figure.panels
    assert panel.limit is not None
    past = [total for total in panel.totals() if total > 2 * panel.limit.value]
    assert 0 < len(past) < len(panel.xs)
    texts = [text for text, _ in boxes(figure)[0] if text.startswith("↑")]
    assert texts == [f"↑ {round(total / (1 << 30)):,}" for total in past]


def test_bars_too_narrow_for_their_heights_leave_the_highest_to_the_mark() -> None:
    figure = train(["k25"], "activations.offload=none", "activations.recompute=[]", "batch.micro_batch=4")
    assert heights(figure).cut
    texts = [text for text, _ in boxes(figure)[0]]
    assert not [text for text in texts if text.startswith("↑")]
    assert [text for text in texts if text.endswith(f"does not fit: {format_bytes(max(figure.panels[0].totals()))}")]


def test_bars_of_a_text_plot_that_are_cut_off_end_in_a_sign() -> None:
    lines = textplot.render(stacked([50, 401], 100), "bytes").splitlines()
    # 72 columns - "2k " - "401 B" - 4 for spaces and sign = 60 cells for 200 bytes: the limit at 30, 15 for 50 bytes.
    assert lines[3] == " " * 27 + "100 B │"
    assert lines[4] == "1k " + "█" * 15 + " " * 15 + "│" + " " * 31 + " 50 B"
    assert lines[5] == "2k " + "█" * 30 + "│" + "█" * 29 + "» 401 B ×"
    assert lines[-1].endswith("  » cut off: longer than the scale")


# ----------------------------------------------------------------------------------------- hostile text


def test_hostile_names_are_escaped_in_svg() -> None:
    svg = plot.picture(hostile(), "svg").decode()
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "\u202e" not in svg
    ElementTree.fromstring(svg)


def test_dollar_signs_underscores_and_missing_glyphs_are_drawn_as_they_are() -> None:
    texts = [text for text, _ in boxes(hostile())[0]]
    (name,) = [text for text in texts if "script" in text]
    assert name.startswith('_<script>alert(1)</script> $\\frac{1}{2}$ & "q" --> ]]> \\n\\x1b[31m \\u202e \\u4e2d WW')
    assert name.endswith("…")


def test_hostile_names_are_harmless_in_a_terminal() -> None:
    shown = textplot.render(hostile())
    assert shown.isascii() or all(char == "\n" or char.isprintable() for char in shown)
    assert max(map(len, shown.splitlines())) <= 72


@pytest.mark.parametrize("room", [1, 3, 7, 40])
def test_cut_text_is_never_wider_than_its_room(room: int) -> None:
    for text in ("", "a", "one two three four five", "x" * 1000, "  spaces  "):
        for most in (1, 2):
            lines = cut(text, lambda part: float(len(part)), float(room), most)
            assert len(lines) <= most
            assert all(len(line) <= max(room, 2) for line in lines)


def test_text_that_fits_is_not_cut() -> None:
    assert cut("one two", lambda part: float(len(part)), 7.0, 1) == ["one two"]
    assert cut("one two three", lambda part: float(len(part)), 7.0, 2) == ["one two", "three"]
    assert cut("one two three four", lambda part: float(len(part)), 7.0, 2) == ["one two", "three…"]


# ------------------------------------------------------------------------------------------------ ticks


def test_lengths_read_4k_32k_256k() -> None:
    assert [tick.text for tick in length_ticks(4096, 262144, 4)] == ["4k", "16k", "64k", "256k"]
    assert [tick.text for tick in length_ticks(5000, 6000, 8)] == ["5,000", "6,000"]
    assert [tick.text for tick in length_ticks(5000, 20000, 8)] == ["5,000", "8k", "16k", "20,000"]


def test_ticks_are_round_numbers_of_the_axis_unit() -> None:
    gib = linear_scale(100 << 30, "bytes", "gib")
    assert gib == (1 << 30, "GiB")
    assert [tick.text for tick in linear_ticks(100 << 30, gib, 5)] == ["0", "20", "40", "60", "80", "100"]
    assert [tick.at for tick in linear_ticks(100 << 30, gib, 5)] == [n * 20 << 30 for n in range(6)]
    assert linear_scale(100 * 10**9, "bytes", "gb") == (10**9, "GB")
    assert [tick.text for tick in log_ticks(1 << 28, 1 << 34, "bytes", "gib", 4)] == [
        "256 MiB", "1 GiB", "4 GiB", "16 GiB",
    ]  # fmt: skip
    assert [tick.text for tick in log_ticks(250 << 20, 400 << 20, "bytes", "gib", 6)] == ["300 MiB", "400 MiB"]
    assert [tick.text for tick in log_ticks(10**14, 10**17, "flops", "gib", 8)] == [
        "100 TFLOP", "1 PFLOP", "10 PFLOP", "100 PFLOP",
    ]  # fmt: skip


def test_many_bars_get_a_tick_each_second_or_third() -> None:
    panel = FIGURES["train"]().panels[0]
    assert [tick.text for tick in bar_ticks(panel, "int", 16)] == [str(n) for n in range(16)]
    assert [tick.text for tick in bar_ticks(panel, "int", 8)] == [str(n) for n in range(0, 16, 2)]


# ------------------------------------------------------------------------------------------- text plots


def drawn(rows: Rows, layers: Sequence[Layer], **beside: Any) -> list[str]:
    (case,) = cases(models(["llama-3.1-70b"]), [""], [1])
    made = Figure(
        kind="memory",
        text="t",
        series=[series(case, rows, layers, **beside)],
        shape="areas",
        across=CONTEXT,
        x_label="x",
        y_label="y",
        heading="",
        columns=(),
    )
    title, _setting, *rest = textplot.render(made, "bytes").splitlines()
    return [title, *rest]


def test_bars_are_as_long_as_their_numbers() -> None:
    lines = drawn(
        {1024: {"weights": 50, "kv": 0}, 2048: {"weights": 50, "kv": 100}},
        [Layer("weights", ("weights",), hue=0), Layer("KV cache", ("kv",), hue=3)],
        limit=Limit(100, "limit"),
    )
    # 72 columns - "2k " - "150 B" - 4 for spaces and sign = 60 cells for 150 bytes: 20, 40, and the limit at 40.
    assert lines[2] == " " * 37 + "100 B │"
    assert lines[3] == "1k " + "█" * 20 + " " * 20 + "│" + " " * 20 + "  50 B"
    assert lines[4] == "2k " + "█" * 20 + "░" * 20 + "│" + "░" * 19 + "  150 B ×"


def test_the_scale_below_bars_stands_at_their_lengths() -> None:
    lines = drawn({1024: {"a": 100}}, [Layer("a", ("a",))], marks=(Mark(1024, 100, "top", valued=True),))
    # 60 cells for 100 bytes: strokes every 20 bytes, 12 cells.
    assert lines[2] == "top 100 B"
    assert lines[3] == "1k " + "█" * 60 + "  100 B ←"
    assert lines[4] == "   └" + ("─" * 11 + "┴") * 5
    assert lines[5].split() == ["0", "20", "40", "60", "80", "100", "bytes"]


@pytest.mark.parametrize("units", ["gib", "bytes"])
def test_every_text_plot_is_as_wide_as_was_asked_for_and_has_all_its_numbers(figure: Figure, units: str) -> None:
    for width in (40, 47, 72, 100, 120):
        shown = textplot.render(figure, units, width=width)
        assert max(map(len, shown.splitlines())) <= width
        if figure.shape != "lines":
            totals = {p.totals()[p.xs.index(x)] for p in figure.panels for x in p.points}
            assert all(any(format_bytes(total, units) in line for line in shown.splitlines()) for total in totals)
    assert textplot.render(figure, units, width=20) == textplot.render(figure, units, width=40)
    assert textplot.render(figure, units, width=999) == textplot.render(figure, units, width=120)


def test_a_bar_without_room_beside_its_name_and_number_stands_below_them() -> None:
    lines = textplot.render(stacked([50 << 40, 80 << 40], 100 << 40), "bytes", width=40).splitlines()
    # 87,960,930,222,080 B: 19 columns and "2k " and 4 leave 14 cells; three digits more leave 10, and one more 9.
    assert any(line.startswith("2k █") and line.endswith("87,960,930,222,080 B") for line in lines)
    lines = textplot.render(stacked([50 << 52, 80 << 52], 100 << 52), "bytes", width=40).splitlines()
    at = lines.index("2k: 360,287,970,189,639,680 B")
    # 30 cells for 100: 24 for 80.
    assert lines[at + 1] == " " + "█" * 24 + " " * 6 + "│"


def test_curves_on_each_other_share_a_line_of_letters_in_turns_and_a_name() -> None:
    shown = textplot.render(kv_figure(cases(models(EQUALS), ["bf16"], [1]), RANGE)).splitlines()
    points = sorted((line.index(c), c) for line in shown if "│" in line or "┤" in line for c in line[9:] if c in "abc*")
    assert "".join(letter for _, letter in points) == "abcabca"
    # 70,272 bytes a token: 274.5 MiB at 4,096 and 17.16 GiB at 262,144.
    assert "abc Kimi K2.5 = Kimi K2 = DeepSeek-V3: 274.50 MiB to 17.16 GiB" in shown


def test_a_limit_is_named_in_its_line_where_that_is_free() -> None:
    figure = FIGURES["memory on GPUs as lines"]()
    shown = textplot.render(figure, width=100).splitlines()
    for limit in figure.panels[0].limits:
        assert any("─ " + " ".join((format_bytes(limit.value), *limit.short)) + " ─" in line for line in shown)


def test_every_text_plot_names_its_ends_without_colour(figure: Figure) -> None:
    shown = textplot.render(figure)
    assert max(map(len, shown.splitlines())) <= 72
    assert "\x1b" not in shown
    assert shown.endswith("\n")
    assert not shown.endswith("\n\n")
    for panel in figure.panels:
        for name in (
            ("4k", "256k") if figure.across.unit == "tokens" and panel.xs[0] == 4096 and panel.xs[-1] == 262144 else ()
        ):
            assert name in shown


def test_colours_change_nothing_but_the_colour(figure: Figure) -> None:
    painted = textplot.render(figure, color=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == textplot.render(figure)


def test_the_plain_characters_replace_every_other(figure: Figure) -> None:
    assert textplot.render(figure).translate(textstyle.ASCII).isascii()


def test_a_grid_rises_with_its_line() -> None:
    shown = textplot.render(FIGURES["kv of one"]()).splitlines()
    rows = [n for n, line in enumerate(shown) if "│" in line or "┤" in line]
    points = [(line.index("a"), n) for n, line in enumerate(shown) if n in rows and "a" in line]
    # 5000 to 6000 tokens: a point at each end, the later one higher up.
    assert [n for _, n in sorted(points)] == sorted((n for _, n in points), reverse=True)
    assert len(points) == 2
