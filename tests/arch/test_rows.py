"""Query-key pairs under every span, against the sum over tokens of what each of them sees."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.arch.rows import pairs
from archcalc.tape import ALL, SEQUENCE, Span, Tape, value
from archcalc.workload import Workload

new, cached, limit = st.integers(1, 80), st.integers(0, 80), st.integers(1, 60)


def twice(span: Span, n: int, c: int, **how: str) -> int:
    """Twice the pairs, which is what the FLOPs of a multiply-add make of them."""
    return value(pairs(Tape(Workload(seq=n, context=c, **how)), span))  # type: ignore[arg-type]


def seen(n: int, c: int, before: int) -> list[Fraction]:
    """What each of n tokens after c sees under a limit, its own pair half: by convention, causal scores are halved."""
    return [p + Fraction(1, 2) if p < before else Fraction(before) for p in range(c, c + n)]


@given(n=new, c=cached, w=limit)
def test_a_limit_cuts_what_each_token_sees(n: int, c: int, w: int) -> None:
    for kind in ("window", "top"):
        assert twice(Span(kind, w, "w"), n, c) == 2 * sum(seen(n, c, w))  # type: ignore[arg-type]


@given(n=new, c=cached, w=limit)
def test_full_scores_under_a_limit_are_as_many_for_every_token(n: int, c: int, w: int) -> None:
    assert twice(Span("window", w, "w"), n, c, attention="full") == 2 * n * min(c + n, w)


@given(n=new, c=cached, more=st.integers(0, 50))
def test_a_limit_that_is_not_reached_changes_nothing(n: int, c: int, more: int) -> None:
    for attention in ("causal", "full"):
        wide = twice(Span("window", c + n + more, "w"), n, c, attention=attention)
        assert wide == twice(ALL, n, c, attention=attention)


@given(n=new, c=cached, size=limit)
def test_chunks_are_sequences_of_their_own(n: int, c: int, size: int) -> None:
    inside = [p % size + Fraction(1, 2) for p in range(c, c + n)]
    assert twice(Span("chunk", size, "c"), n, c) == 2 * sum(inside)


@given(n=new, c=cached, size=limit)
def test_full_scores_of_a_chunk_are_all_of_its_tokens_that_are_there(n: int, c: int, size: int) -> None:
    # a token scores its chunk up to the last new token in it, as it scores a whole sequence without chunks
    reach = [min(c + n, (p // size + 1) * size) - p // size * size for p in range(c, c + n)]
    assert twice(Span("chunk", size, "c"), n, c, attention="full") == 2 * sum(reach)


@given(n=new, c=cached, r=st.integers(1, 20))
def test_entries_of_a_stride_are_seen_once_their_tokens_are_there(n: int, c: int, r: int) -> None:
    before, after = c // r, (c + n) // r
    assert twice(Span("stride", r, "r"), n, c, attention="full") == 2 * n * after
    assert twice(Span("stride", r, "r"), n, c) == n * (before + after)  # of those made now, half


@pytest.mark.parametrize("attention", ["causal", "full"])
@given(c=cached, w=limit)
def test_a_decoded_token_sees_whole_pairs(attention: str, c: int, w: int) -> None:
    step = {"phase": "decode", "attention": attention}
    assert twice(ALL, 1, c, **step) == 2 * (c + 1)
    assert twice(Span("window", w, "w"), 1, c, **step) == 2 * min(c + 1, w)
    assert twice(Span("chunk", w, "w"), 1, c, **step) == 2 * (c % w + 1)
    assert twice(Span("stride", w, "w"), 1, c, **step) == 2 * ((c + 1) // w)


@given(parts=st.lists(st.integers(1, 30), min_size=1, max_size=6), w=limit)
def test_a_prefill_in_parts_scores_what_one_prefill_scores(parts: list[int], w: int) -> None:
    starts = [sum(parts[:i]) for i in range(len(parts))]
    for span in (ALL, Span("window", w, "w"), Span("chunk", w, "c")):
        pieces = sum(twice(span, n, c) for n, c in zip(parts, starts, strict=True))
        assert pieces == twice(span, sum(parts), 0)


@pytest.mark.parametrize("attention", ["causal", "full"])
@given(lengths=st.lists(new, min_size=1, max_size=6), c=cached, w=limit)
def test_packed_sequences_score_each_on_its_own(attention: str, lengths: list[int], c: int, w: int) -> None:
    for span in (ALL, *(Span(kind, w, "w") for kind in ("window", "top", "chunk", "stride"))):  # type: ignore[arg-type]
        packed = Tape(Workload(lengths=tuple(lengths), context=c, attention=attention))  # type: ignore[arg-type]
        assert value(pairs(packed, span)) == sum(twice(span, n, c, attention=attention) for n in lengths)


def test_a_state_scores_no_pairs() -> None:
    with pytest.raises(AssertionError, match="no pairs"):
        twice(SEQUENCE, 4, 0)
