"""What a report says about how it counted, where readers would otherwise guess."""

from __future__ import annotations

import pytest

from archcalc.documents.quantities import QUANTITIES
from tests.support import answered, run


def said(*arguments: str, word: str) -> list[str]:
    return [line for line in answered(*arguments)["conventions"] if word in line]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "Logits of all tokens (--logits all); vLLM and SGLang make those of a sequence's last one"),
        (("--logits", "last"), "Logits of the last token of each sequence (--logits last), as vLLM and SGLang"),
        (("--phase", "train"), "Logits of all tokens: each has a loss."),
    ],
)
def test_a_report_says_over_which_tokens_the_head_runs(flags: tuple[str, ...], expected: str) -> None:
    (line,) = said("flops", "llama-3.1-8b", "--seq", "64", *flags, word="Logits")
    assert line.startswith(expected)
    assert expected in run("flops", "llama-3.1-8b", "--seq", "64", *flags).out


def test_a_decoded_token_leaves_no_choice_of_logits() -> None:
    assert said("flops", "llama-3.1-8b", "--phase", "decode", word="Logits") == []


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (("flops", "k25", "--seq", "12", "--image", "224x224"), "--seq"),
        (("flops", "k25", "--lengths", "12,30", "--image", "224x224"), "--lengths"),
        (("flops", "k25", "--phase", "decode", "--context", "90", "--image", "224x224"), "--context"),
        (("flops", "qwen3-vl-235b", "--video", "8x224x224"), "--seq"),
        (("kv", "k25", "--image", "224x224"), "--context"),
        (("kv", "k25", "--video", "8x224x224"), "--context"),
    ],
)
def test_marker_tokens_around_pictures_are_said_to_be_text(command: tuple[str, ...], flag: str) -> None:
    (line,) = said(*command, word="Marker tokens")
    assert line.endswith(f"not among the vision tokens, count them in {flag}.")


@pytest.mark.parametrize("command", ["flops", "kv"])
def test_without_pictures_nothing_is_said_of_markers(command: str) -> None:
    assert said(command, "k25", word="Marker") == []


def test_markers_of_a_published_prompt_are_not_vision_tokens() -> None:
    # sgl-project/sglang#40356: 12 tokens of text, and 69 of an image of 224 x 224 px: 16 x 16 patches, one for 2 x 2,
    # and media_begin, "image", media_content, media_end and a newline around them
    found = answered("flops", "k25", "--seq", "17", "--image", "224x224")
    assert found["quantities"]["vision.tokens"] == 69 - 5
    assert 17 + found["quantities"]["vision.tokens"] == 81
    assert "marker tokens around them are text" in QUANTITIES["vision.tokens"].meaning
