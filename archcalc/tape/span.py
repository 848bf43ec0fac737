"""How far back a mixer looks: the one fact that its query-key pairs and its cache both follow from."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Literal, NamedTuple


class Span(NamedTuple):
    """Which tokens of a sequence a mixer still sees, and so which it has to keep.

    Attributes:
        kind: `all` of them; the last `size` (`window`: the token itself among them); those of its own run of `size`
            (`chunk`); the best `size` (`top`, which limits what is scored: all stay cached); one entry for every `size`
            tokens (`stride`); or one state for the whole `sequence`, whatever its length.
        size: the limit or the stride [tokens]; 0 where there is none.
        name: the spec key that a formula prints.
    """

    kind: Literal["all", "window", "chunk", "top", "stride", "sequence"]
    size: int = 0
    name: str = ""

    def entries(self, tokens: int, whole: Callable[[int], int] = lambda tokens: tokens) -> int:
        """What is kept of one sequence [entries].

        A stride holds the entry that its last tokens have begun. `whole` rounds tokens up to whole pages.
        """
        if self.kind == "sequence":
            return 1
        if self.kind in ("window", "chunk"):
            return whole(min(tokens, self.size))
        return -(-whole(tokens) // self.size) if self.kind == "stride" else whole(tokens)

    def growth(self, tokens: int) -> Fraction:
        """Entries that one more token adds to a sequence of `tokens`; 1/size on the average of a stride."""
        if self.kind == "stride":
            return Fraction(1, self.size)
        return Fraction(self.entries(tokens + 1) - self.entries(tokens))

    @property
    def full_at(self) -> float:
        """The length from which nothing more is kept [tokens]; infinite where the cache grows for ever."""
        if self.kind == "sequence":
            return 0
        return self.size if self.kind in ("window", "chunk") else inf


ALL = Span("all")
SEQUENCE = Span("sequence")
