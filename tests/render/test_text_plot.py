"""Pictures in characters: what stands beside an axis and in a key when there is little or much to show."""

from __future__ import annotations

from archcalc.limits import LINES
from archcalc.render.axes import log_ticks
from archcalc.render.textstyle import LETTERS
from tests.support import run


def test_an_axis_without_a_round_number_has_its_upper_end() -> None:
    """The round step of at most six up to 130,304 is 50,000, and neither it nor its double lies between the ends."""
    (tick,) = log_ticks(105_344, 130_304, "bytes", "bytes", 6)
    assert (tick.at, tick.text) == (130_304, "130,304 bytes")


def test_each_curve_of_the_most_lines_has_a_letter_of_its_own() -> None:
    """Two lines a model and batch, so that there are six; FLOPs come in six groups at most: linears, attention, index
    scores, scans, convolutions, vision. GLM-5 and DeepSeek-V3.2 have the first three, Kimi Linear four: 2 x (3 + 3 + 4)
    curves, t the last."""
    assert len(LETTERS) == len(set(LETTERS)) >= 6 * LINES.most // 2
    ran = run("plot", "flops", "glm-5", "deepseek-v3.2", "kimi-linear-48b", "--batch", "1,8")
    assert ran.code == 0
    assert "\nt " in ran.out
