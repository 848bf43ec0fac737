"""Pictures in characters: what stands beside an axis and in a key when there is little or much to show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archcalc.limits import LINES
from archcalc.render import textplot
from archcalc.render.axes import log_ticks
from archcalc.render.textstyle import LETTERS
from tests.render.test_plot import stacked
from tests.support import run


def test_an_axis_without_a_round_number_has_its_upper_end() -> None:
    """The round step of at most six up to 130,304 is 50,000, and neither it nor its double lies between the ends."""
    (tick,) = log_ticks(105_344, 130_304, "bytes", "bytes", 6)
    assert (tick.at, tick.text) == (130_304, "130,304 bytes")


@pytest.mark.parametrize("grown", [1, 2**61, 2**70])
def test_heights_past_any_that_a_float_tells_apart_are_drawn(grown: int) -> None:
    """A cache adds next to nothing to a state of 2^100 bytes: the ratio of both ends is 1 for a float."""
    for shape in ("lines", "areas"):
        assert textplot.render(replace(stacked([2**100, 2**100 + grown], None), shape=shape))


def test_a_bar_past_its_axis_ends_there() -> None:
    figure = stacked([2**70, 1], 100)
    assert max(map(len, textplot.render(figure).splitlines())) <= 120


def test_each_curve_of_the_most_lines_has_a_letter_of_its_own() -> None:
    """Two lines a model and batch, so that there are six; FLOPs come in six groups at most: linears, attention, index
    scores, scans, convolutions, vision. GLM-5 and DeepSeek-V3.2 have the first three, Kimi Linear four: 2 x (3 + 3 + 4)
    curves, t the last."""
    assert len(LETTERS) == len(set(LETTERS)) >= 6 * LINES.most // 2
    ran = run("plot", "flops", "glm-5", "deepseek-v3.2", "kimi-linear-48b", "--batch", "1,8")
    assert ran.code == 0
    assert "\nt " in ran.out
