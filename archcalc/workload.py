"""How the model is run: phase, batch, sequence, context, images. Sizes only; no model is known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from archcalc.errors import InputError
from archcalc.limits import LENGTHS, PICTURES, hold

Phase = Literal["train", "prefill", "decode"]
Images = Sequence[tuple[int, int]]
"""(height, width) of each [pixels]."""
Videos = Sequence[tuple[int, int, int]]
"""(frames, height, width) of each [frames, pixels, pixels]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One way to run a model.

    Attributes:
        phase: `train`, `prefill` or `decode` (one new token a sequence).
        batch: sequences.
        seq: new text tokens a sequence; vision tokens are added.
        lengths: new text tokens of each of several sequences that run packed into one row; batch and seq are 1 then.
        context: tokens already cached, a sequence.
        attention: `causal` counts half of the new-by-new scores, `full` all of them.
        logits: the head over `all` new tokens, or the `last` of each sequence.
        choices: how blocks run that leave a choice, as (block's name of it, what was chosen): `("mla", "absorbed")`.
        images: (height, width) [pixels], each sequence's own.
        videos: (frames, height, width) [frames, pixels, pixels], each sequence's own.
        groups: (frames, height, width) [patches] of more that the tower sees, cut already.

    Training sequences may be all pictures: `seq` is 0 then.

    Raises:
        InputError: a size that is not positive, more pictures or lengths than are worked out.
    """

    phase: Phase = "prefill"
    batch: int = 1
    seq: int = 1
    lengths: tuple[int, ...] = ()
    context: int = 0
    attention: Literal["causal", "full"] = "causal"
    logits: Literal["all", "last"] = "all"
    choices: tuple[tuple[str, str], ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    videos: tuple[tuple[int, int, int], ...] = ()
    groups: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        hold(PICTURES, len(self.images) + sum(frames for frames, _, _ in self.videos))
        pictures = self.images or self.videos or self.groups
        least_seq = 0 if self.phase == "train" and pictures else 1
        sizes = [("batch", self.batch, 1), ("seq", self.seq, least_seq), ("context", self.context, 0)]
        sizes += [("image side", side, 1) for image in self.images for side in image]
        sizes += [("video size", side, 1) for video in self.videos for side in video]
        for name, size, least in sizes:
            if size < least:
                raise InputError(f"{name} must be at least {least}, not {size}", value=size)
        self._check_lengths()
        if self.phase == "decode" and self.seq != 1:
            raise InputError(
                f"decode runs one new token a sequence, not seq {self.seq}",
                value=self.seq,
                hint="give the cached length with --context, or use --phase prefill",
            )
        if self.phase == "train" and self.context:
            raise InputError("training has no cached context", value=self.context, hint="leave out --context")

    def _check_lengths(self) -> None:
        """Raises InputError."""
        if not self.lengths:
            return
        if (self.batch, self.seq) != (1, 1):
            raise AssertionError("lengths beside batch or seq")
        hold(LENGTHS, len(self.lengths))
        shortest = min(self.lengths)
        if shortest < 1:
            raise InputError(
                f"a length must be at least 1, not {shortest}", value=shortest, hint="leave out empty sequences"
            )
        if self.phase == "decode":
            raise InputError(
                "decode runs one new token a sequence: there are no lengths to give",
                value=self.lengths,
                hint="give the cached length with --context, or use --phase prefill",
            )

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self.lengths) or self.batch

    @property
    def text_tokens(self) -> int:
        """New text tokens of all sequences."""
        return sum(self.lengths) or self.batch * self.seq

    @property
    def longest(self) -> int:
        """New text tokens of the longest sequence."""
        return max(self.lengths, default=self.seq)

    def choice(self, name: str) -> str:
        """What was chosen under a name; `auto` where nothing was."""
        return dict(self.choices).get(name, "auto")
