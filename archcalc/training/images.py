"""What the vision tower of a model sees under a plan: pictures, groups of patches, tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from archcalc.arch.vision.tower import Group, Tower
from archcalc.errors import InputError
from archcalc.limits import PICTURES, beyond
from archcalc.training.misfit import misfit
from archcalc.training.plan import Plan
from archcalc.workload import Workload

MOST_SIDE = 4096
"""Tokens along the longest side of a square picture that is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the tower sees of each sequence.

    Attributes:
        workload: of one micro-batch; its text is what pictures leave of `batch.seq`.
        tokens: of the backbone, that pictures make.
        groups: patches that attend to one another, and how many such groups a sequence has.
        assumed: what stands for tokens whose pictures the plan does not name.
    """

    workload: Workload
    tokens: int
    groups: tuple[tuple[Group, int], ...]
    assumed: tuple[str, ...]


def sight(tower: Tower | None, plan: Plan) -> Sight:
    """The pictures of a plan as a model sees them.

    Raises:
        Misfit: a model without a tower, more tokens than the sequence has, fewer than the smallest picture makes, a
            picture that the processor refuses.
    """
    batch = plan.batch
    if not batch.pictures:
        return Sight(workload=_workload(plan, batch.seq), tokens=0, groups=(), assumed=())
    if tower is None:
        key = batch.pictures[0][0]
        hint = f"leave out batch.{key}, or choose a model that has one, such as k25"
        raise misfit(f"the plan has {key}, and the model has no vision tower", "batch", key, hint=hint)
    found: dict[str, list[tuple[int, ...]]] = {"images": [], "videos": []}
    assumed = []
    for key, each in batch.pictures:
        if each.tokens_per_sequence is None:
            found[key] += [tuple(each.size or ())] * (each.per_sequence or 0)
        else:
            squares = _squares(tower, key, each.tokens_per_sequence)
            found[key] += squares
            assumed.append(_said(tower, key, each.tokens_per_sequence, squares))
    seen = Workload(
        phase="train",
        seq=0,
        images=tuple((h, w) for h, w in found["images"]),
        videos=tuple((f, h, w) for f, h, w in found["videos"]),
    )
    try:
        groups = tower.groups(seen)
    except InputError as error:
        keys = dict(batch.pictures)
        raise misfit(error.message, *(("batch", *keys) if len(keys) == 1 else ("batch",)), hint=error.hint) from None
    tokens = tower.tokens(groups)
    if tokens > batch.seq:
        key = batch.pictures[-1][0]
        hint = "fewer or smaller pictures, or a longer batch.seq: it counts text and vision tokens"
        message = f"the pictures of a sequence make {tokens:,} tokens, and batch.seq is {batch.seq:,}"
        raise misfit(message, "batch", key, value=tokens, hint=hint)
    counted = Counter(groups)
    return Sight(
        workload=_workload(plan, batch.seq - tokens, seen),
        tokens=tokens,
        groups=tuple(sorted(counted.items(), key=lambda pair: (-pair[0].patches, pair[0]))),
        assumed=tuple(assumed),
    )


def _workload(plan: Plan, text: int, seen: Workload | None = None) -> Workload:
    pictures = () if seen is None else (seen.images, seen.videos)
    images, videos = pictures or ((), ())
    return Workload(phase="train", batch=plan.batch.micro_batch, seq=text, images=images, videos=videos)


def _squares(tower: Tower, key: str, tokens: int) -> list[tuple[int, ...]]:
    """Square images, or square videos of one group's frames, that make so many tokens: the largest that fits, then
    again what is left. Less than the smallest picture makes is left out.

    Raises:
        Misfit: not even the smallest picture fits.
    """
    frames = () if key == "images" else (tower.group_frames,)
    sides = range(tower.token_side, (MOST_SIDE + 1) * tower.token_side, tower.token_side)
    made = _making(tower, frames)
    found: list[tuple[int, ...]] = []
    left = tokens
    while n := bisect_right(sides, left, key=made):
        best = made(sides[n - 1])
        count = (len(found) + left // best) * (frames[0] if frames else 1)
        if count > PICTURES.most:
            error = beyond(PICTURES, count)
            raise misfit(error.message, "batch", key, "tokens_per_sequence", value=tokens, hint=error.hint)
        side = sides[bisect_left(sides, best, hi=n, key=made)]
        found += [(*frames, side, side)] * (left // best)
        left %= best
    if not found:
        least = made(sides[0])
        message = f"{tokens:,} tokens a sequence: the processor makes {least:,} of the smallest picture"
        hint = f"batch.{key}.tokens_per_sequence is {least} or more"
        raise misfit(message, "batch", key, value=tokens, hint=hint)
    return found


def _making(tower: Tower, frames: tuple[int, ...]) -> Callable[[int], int]:
    """Tokens of a square picture by its side, as the processor of a tower takes it."""

    def tokens(side: int) -> int:
        images = () if frames else ((side, side),)
        videos = tuple((n, side, side) for n in frames)
        return tower.tokens(tower.groups(Workload(phase="train", seq=0, images=images, videos=videos)))

    return tokens


def _said(tower: Tower, key: str, tokens: int, squares: list[tuple[int, ...]]) -> str:
    """The pictures that stand for a mean number of tokens, in words."""
    sizes = Counter(squares)
    listed = ", ".join(f"{n} of {'x'.join(map(str, size))}" for size, n in sizes.items())
    made = sum(n * _making(tower, size[:-2])(size[-1]) for size, n in sizes.items())
    rest = "" if made == tokens else f", {made:,} tokens: less than the smallest picture makes is left out"
    return f"batch.{key}: {tokens:,} vision tokens a sequence stand for square {key}: {listed}{rest}"
