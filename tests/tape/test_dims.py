"""Named sizes and formulas that print themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from archcalc.tape import Dim, Term, formula, numeric, product, value

HEADS, DIM, RANK = Dim("heads", 64), Dim("head_dim", 128), Dim("rank", 512)


def test_a_product_of_dims_is_their_exact_product() -> None:
    assert product((HEADS, DIM)) == 8192  # 64 x 128
    assert product(()) == 1


def test_a_sum_of_dims_is_one_dim_that_prints_in_brackets() -> None:
    both = DIM + Dim("rope", 64)
    assert (both.name, both.size) == ("(head_dim+rope)", 192)  # 128 + 64


def test_a_multiple_keeps_the_axis() -> None:
    double = 2 * Dim("ffn", 10, "ffn")
    assert (double.name, double.size, double.axis) == ("2·ffn", 20, "ffn")


def test_on_gives_a_copy_on_an_axis_and_leaves_the_dim_alone() -> None:
    sharded = HEADS.on("heads")
    assert (sharded.size, sharded.axis, HEADS.axis) == (64, "heads", None)


def test_a_formula_prints_names_and_then_numbers() -> None:
    # a coefficient of 1 is left out before names, and is all that a term without names prints
    number = (Term(2, (HEADS, DIM)), Term(1, (RANK,)), Term(1, ()), Term(7, (RANK, HEADS)))
    assert formula(number) == "2·heads·head_dim + rank + 1 + 7·rank·heads"
    assert numeric(number) == "2·64·128 + 512 + 1 + 7·512·64"
    assert value(number) == 246_273  # 2 x 64 x 128 = 16384; + 512 + 1; + 7 x 512 x 64 = 229376
    assert (formula((Term(1, ()),)), numeric((Term(1, ()),))) == ("1", "1")


def test_an_empty_number_is_zero() -> None:
    assert (formula(()), numeric(()), value(())) == ("0", "0", 0)


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(1, 10**12), max_size=5)), max_size=5))
def test_the_printed_numbers_are_the_value(parts: list[tuple[int, list[int]]]) -> None:
    number = tuple(Term(c, tuple(Dim(f"d{i}", size) for i, size in enumerate(sizes))) for c, sizes in parts)
    assert eval(numeric(number).replace("·", "*")) == value(number)  # products past 2^64 stay exact
