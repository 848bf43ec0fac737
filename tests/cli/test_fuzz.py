"""Whatever a file says: an answer or an error of ours, never a bug."""

from __future__ import annotations

import copy
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import TINY, data, dumped, run, text

FILE = str(Path(tempfile.mkdtemp(prefix="archcalc-fuzz-")) / "s.yaml")
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([10**9, 10**18, 10**60, -(10**60)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["mla", "gqa", "moe", "dense", "plain", "silu", "9216", "~104B", "params.total", "params[x]", "\x1b[2J"]
    )
    | st.lists(st.integers(0, 9), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2)
)


def answer(content: str) -> None:
    """Every command of the file either answers or refuses."""
    Path(FILE).write_text(content, encoding="utf-8", errors="surrogatepass")
    for arguments, codes in (
        (["params", FILE, "--format", "json"], {0, 2}),
        (["validate", FILE], {0, 1, 2}),
        (["show", FILE], {0, 2}),
    ):
        ran = run(*arguments)
        assert ran.code in codes, (ran.code, ran.err[-500:])
        assert "Traceback" not in ran.err
        assert ran.err.replace("\n", "").isprintable()
        assert (ran.code == 0) == (ran.err == "")


@st.composite
def mutated(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    """A spec with a few values replaced, keys renamed, or parts taken away."""
    content = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 9)):
                node = node[key]
                continue
            action = draw(st.sampled_from(["set", "set", "delete", "rename"]))
            if action == "set":
                node[key] = draw(VALUES)
            elif action == "delete":
                del node[key]
            elif isinstance(node, dict):
                node[draw(st.text(max_size=6))] = node.pop(key)
            break
    return content


@given(mutated(TINY))
@SETTINGS
def test_a_small_spec_with_mistakes(content: dict[str, Any]) -> None:
    answer(dumped(content))


@given(mutated(data("k25")))
@SETTINGS
def test_a_real_spec_with_mistakes(content: dict[str, Any]) -> None:
    answer(dumped(content))


@given(st.text(max_size=200))
@SETTINGS
def test_any_text(content: str) -> None:
    answer(content)


LINES = text("k25").split("\n")


@given(
    st.integers(0, len(LINES) - 1),
    st.integers(0, 60),
    st.sampled_from([*"[]{}:,-&*!|>'\"%@`#\t ", "\n", "- ", ": ", "é"]),
)
@SETTINGS
def test_a_character_too_many(line: int, column: int, extra: str) -> None:
    lines = list(LINES)
    lines[line] = lines[line][:column] + extra + lines[line][column:]
    answer("\n".join(lines))


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_claims_with_mistakes(drawn: st.DataObject) -> None:
    content = copy.deepcopy(TINY)
    numbers = st.sampled_from(
        ["3688", "3.7K", "36.88K", "0", "0.0", "1e9", "5 %", "0 %", "9" * 60, "T", "~1", "1,000"]
    ) | st.text(max_size=6)
    names = [
        "params.total",
        "params.active",
        "params.vision",
        "params[lm_head]",
        "params[]",
        "params[.]",
        "moe.activation_ratio",
    ]
    claim = st.fixed_dictionaries(
        {
            "claim": st.text(min_size=1, max_size=5),
            "quantity": st.sampled_from(names) | st.text(min_size=1, max_size=12),
            "value": st.none() | numbers,
            "source": st.just("s"),
        }
    )
    content["claims"] = drawn.draw(st.lists(claim, max_size=3))
    Path(FILE).write_text(dumped(content))
    ran = run("claims", FILE, "--format", "json")
    assert ran.code in {0, 2}, ran.err


COMMANDS = ["params", "claims", "show", "specs", "schema", "validate"]
FLAGS = ["--depth", "--top", "--by", "--explain", "--format", "--units", "--help", "--version", "-o", "--", "-"]
WORDS = st.sampled_from([*COMMANDS, *FLAGS, "k25", "role", "1", "-1", "json", "gb", "pre_norm", "🦀"])


@given(st.lists(WORDS, max_size=6))
@SETTINGS
def test_any_command_line(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # `-o k25` is a file too
        ran = run(*words)
    assert ran.code in {0, 2}, ran.err
    assert "internal error" not in ran.err
