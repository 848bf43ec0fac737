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
from archcalc.documents.sweep.figure import Figure, Layer, Limit, Mark, Rows, series
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import memory_figure
from archcalc.documents.sweep.training import train_figure, training_memory_figure, trainings
from archcalc.files.loader import load_spec
from archcalc.render import plot, textplot
from archcalc.render.axes import bar_ticks, length_ticks, linear_scale, linear_ticks, log_ticks
from archcalc.render.sheet import cut
from tests.support import ROOT

RANGE = Range(4096, 262144)
HOSTILE = '_<script>alert(1)</script> $\\frac{1}{2}$ & "q" --> ]]> \n\x1b[31m \u202e \u4e2d ' + "W" * 300


def memory(specs: list[str], dtypes: list[str], batches: list[int], gpu: str | None = "h200") -> Figure:
    return memory_figure(cases(models(specs), dtypes, batches), RANGE, [gpu] if gpu else [], tp=8)


def on_gpus(specs: list[str], batches: list[int]) -> Figure:
    return memory_figure(cases(models(specs), ["bf16"], batches), RANGE, ["h200", "b200"], gpus=8)


def train(specs: list[str], *overrides: str) -> Figure:
    return train_figure(trainings(models(specs), ["k2-pretrain"], overrides))


def sweep(specs: list[str]) -> Figure:
    return training_memory_figure(trainings(models(specs), ["k2-pretrain"], ()), Range(1024, 32768))


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
    "kv": lambda: kv_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 8]), RANGE),
    "kv of one": lambda: kv_figure(cases(models(["k25"]), ["bf16"], [1]), Range(5000, 6000)),
    "flops": lambda: flops_figure(cases(models(["k25"]), [""], [1]), RANGE),
    "flops of three": lambda: flops_figure(cases(models(["k25", "llama-3.1-405b", "llama-3.1-70b"]), [""], [1]), RANGE),
    "train": lambda: train(["kimi-k2"]),
    "train of two": lambda: train(["kimi-k2", "k25"]),
    "train that does not fit": lambda: train(["k25"], "activations.offload=none", "activations.recompute=[]"),
    "memory under a plan": lambda: sweep(["kimi-k2"]),
    "memory of two under a plan": lambda: sweep(["kimi-k2", "k25"]),
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


def boxes(figure: Figure) -> tuple[list[tuple[str, Bbox]], list[Bbox], Bbox]:
    """Every visible text of a sheet with its box, the boxes of the panels, and the sheet's own."""
    with plot._settings():
        sheet = plot._Drawing(figure, "gib").sheet
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


def test_no_text_stands_over_another_over_a_panel_or_off_the_sheet(figure: Figure) -> None:
    check_layout(figure)


def test_long_hostile_names_overlap_nothing_either() -> None:
    check_layout(hostile())
    check_layout(memory_figure_of_hostile())


def memory_figure_of_hostile() -> Figure:
    bad = Model("bad", HOSTILE, load_spec("llama-3.1-70b"))
    return memory_figure(cases([bad, *models(["k25"])], ["bf16"], [1, 8]), RANGE, ["h200"], tp=8)


def check_layout(figure: Figure) -> None:
    texts, panels, sheet = boxes(figure)
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
    assert lines[2] == "1k " + "█" * 20 + " " * 20 + "│" + " " * 20 + "  50 B"
    assert lines[3] == "2k " + "█" * 20 + "░" * 20 + "│" + "░" * 19 + "  150 B ×"


def test_the_scale_below_bars_stands_at_their_lengths() -> None:
    lines = drawn({1024: {"a": 100}}, [Layer("a", ("a",))], marks=(Mark(1024, 100, "top", valued=True),))
    # 60 cells for 100 bytes: strokes every 20 bytes, 12 cells.
    assert lines[2] == "top 100 B"
    assert lines[3] == "1k " + "█" * 60 + "  100 B ←"
    assert lines[4] == "   └" + ("─" * 11 + "┴") * 5
    assert lines[5].split() == ["0", "20", "40", "60", "80", "100", "bytes"]


def test_every_text_plot_is_at_most_72_columns_without_colour(figure: Figure) -> None:
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
    assert textplot.render(figure).translate(textplot.ASCII).isascii()


def test_a_grid_rises_with_its_line() -> None:
    shown = textplot.render(FIGURES["kv of one"]()).splitlines()
    rows = [n for n, line in enumerate(shown) if "│" in line or "┤" in line]
    points = [(line.index("a"), n) for n, line in enumerate(shown) if n in rows and "a" in line]
    # 5000 to 6000 tokens: a point at each end, the later one higher up.
    assert [n for _, n in sorted(points)] == sorted((n for _, n in points), reverse=True)
    assert len(points) == 2
