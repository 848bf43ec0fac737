"""Which parts of a model a plan trains, freezes, or trains through low-rank adapters, and the tape that follows."""

from __future__ import annotations

import re
from copy import copy
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import Field, field_validator, model_validator

from archcalc.calc.gradients import followed
from archcalc.errors import FieldError, InputError
from archcalc.files.storage import Storage, release
from archcalc.section import About, Section
from archcalc.tape import Tape, Weight
from archcalc.training.adapters import Pairs, adapted, adapts
from archcalc.training.misfit import misfit
from archcalc.training.packed import packing

WAYS = "full, frozen, lora(RANK) or qlora(RANK)"
_WAY = re.compile(r"(full|frozen)|(q?lora)\(([0-9]{1,6})\)")


Kind = Literal["full", "frozen", "lora", "qlora"]
KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


class Way(NamedTuple):
    """How a part is trained: `rank` of its adapters, 0 without."""

    kind: Kind
    rank: int = 0

    @property
    def adapted(self) -> bool:
        """Whether adapters train in its place."""
        return self.rank > 0


def way(text: str) -> Way:
    """A way by its name. Raises InputError."""
    found = _WAY.fullmatch(text)
    if found is None:
        raise InputError(f"{text} is no way to train a part", value=text, hint=f"write {WAYS}, such as lora(16)")
    plain, kind, rank = found.groups()
    if plain:
        return Way(KINDS[plain])
    if not int(rank):
        raise InputError(f"{text}: adapters have a rank of at least 1", value=text, hint=f"write {kind}(16), or frozen")
    return Way(KINDS[kind], int(rank))


WayText = Annotated[str, Field(json_schema_extra={"pattern": r"^(full|frozen|q?lora\([1-9][0-9]{0,5}\))$"})]


class Train(Section):
    """How each part is trained. The backbone is its layers, embedding and head, unless these are named apart."""

    about = About(
        (
            "How each part is trained. `full`; `frozen`: no gradient, no optimizer state; `lora(R)`: frozen beside "
            "low-rank adapters of rank R that train (arXiv:2106.09685); `qlora(R)`: the same, the matrices that have "
            "adapters held in four bits (arXiv:2305.14314), or as the release stores them where that quantizes them"
        ),
        backbone=(
            "The layers, and embedding and head unless these are named: `full`, `frozen`, `lora(RANK)` or `qlora(RANK)`"
        ),
        embedding="The embedding: `full` or `frozen`; left out: as the backbone, `frozen` beside its adapters",
        head="The head: `full`, `frozen` or `lora(RANK)`; left out: as the backbone, `frozen` beside its adapters",
        vision="The vision tower: `full`, `frozen`, `lora(RANK)` or `qlora(RANK)`",
        projector="The projector: `full`, `frozen`, `lora(RANK)` or `qlora(RANK)`",
        mtp="Modules of multi-token prediction: `full`, `frozen`, `lora(RANK)` or `qlora(RANK)`",
    )

    backbone: WayText = "full"
    embedding: WayText | None = None
    head: WayText | None = None
    vision: WayText = "full"
    projector: WayText = "full"
    mtp: WayText = "full"

    @field_validator("*")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            way(value)
        return value

    @model_validator(mode="after")
    def _adaptable(self) -> Self:
        if self.embedding is not None and way(self.embedding).adapted:
            raise FieldError("an embedding has no linear layer for adapters", "embedding", hint="full or frozen")
        if self.head is not None and way(self.head).kind == "qlora":
            raise FieldError(
                "bitsandbytes quantizes every linear layer but the output head", "head", hint="full, frozen or lora(R)"
            )
        return self

    @property
    def ways(self) -> dict[str, Way]:
        """The way of every part; an adapted backbone leaves embedding and head frozen unless they are named."""
        backbone = way(self.backbone)
        ends = "frozen" if backbone.adapted else self.backbone
        named = {part: getattr(self, part) for part in ("vision", "projector", "mtp")}
        named |= {"embedding": self.embedding or ends, "head": self.head or ends}
        return {"backbone": backbone, **{part: way(text) for part, text in named.items()}}

    @property
    def everything(self) -> bool:
        """Whether all of the model is trained, as without this section."""
        return all(each.kind == "full" for each in self.ways.values())


class Held:
    """A spec's storage section, known by its identity: what it is made of can't be hashed."""

    __slots__ = ("storage",)

    def __init__(self, storage: Storage | None) -> None:
        self.storage = storage

    def __hash__(self) -> int:
        return id(self.storage)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.storage is self.storage


def part_of(w: Weight) -> str:
    """The part that a weight belongs to: embedding and head of the backbone are parts of their own."""
    return w.role if w.part == "backbone" and w.role in ("embedding", "head") else w.part


def trained_tape(tape: Tape, train: Train, storage: Storage | None = None) -> Tape:
    """The tape of a run that trains these parts: weights that rest, adapters beside them, gradients where they go.

    Args:
        storage: how the model's release stores its weights, for `qlora`.

    Raises:
        InputError: a part that the model does not have, or two ways for one matrix.
    """
    return tape if train.everything else _trained(tape, train, Held(storage))


@lru_cache(maxsize=64)
def _trained(tape: Tape, train: Train, held: Held) -> Tape:
    ways = _checked(tape, train)
    stored = None if held.storage is None else release(held.storage)
    new, swapped = copy(tape), {}
    for w in tape.weights():
        how = ways[part_of(w)]
        if how.kind != "full":
            swapped[id(w)] = w.replace(rests=True)
    for w in (op.weights[0] for segment in tape.segments for op in segment.ops if adapts(op)):
        if ways[part_of(w)].kind == "qlora":
            swapped[id(w)].packed = packing(w, stored)
    pairs: Pairs = {}
    new.segments = [adapted(segment, swapped, lambda w: ways[part_of(w)].rank, pairs) for segment in tape.segments]
    return followed(new)


def _checked(tape: Tape, train: Train) -> dict[str, Way]:
    """The way of each part, once these are known to be there. Raises InputError."""
    weights = tape.weights()
    have = {part_of(w) for w in weights}
    ways = train.ways
    for part in ("vision", "projector", "mtp"):
        if ways[part].kind != "full" and part not in have:
            what = "multi-token prediction" if part == "mtp" else f"{part} part"
            hint = f"leave out train.{part}"
            raise misfit(f"train.{part}: the model has no {what}", "train", part, value=getattr(train, part), hint=hint)
    if "head" not in have:
        if train.head is not None and train.embedding not in (None, train.head):
            raise misfit(
                f"train.head {train.head} and train.embedding {train.embedding}: the head is the embedding's matrix",
                "train",
                "head",
                value=train.head,
                hint="name one of them, or both alike",
            )
        if ways["head"].adapted:
            raise misfit(
                f"train.head {train.head}: the head is the embedding's matrix, which has no adapters",
                "train",
                "head",
                value=train.head,
                hint="set train.head to full or frozen",
            )
        if train.embedding is None:
            ways["embedding"] = ways["head"]
    return ways
