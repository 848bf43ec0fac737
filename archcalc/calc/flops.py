"""FLOPs: a fold over the operations of a tape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, get_args

from archcalc.tape import FlopClass, Number, Part, Tape, product, value


class FlopRow(NamedTuple):
    """One operation of one segment, all its copies together [FLOPs].

    `number` is the forward of a single copy, with its formula; `backward` is 0 unless the workload trains.
    """

    path: str
    indices: tuple[int, ...]
    experts: int
    part: Part
    kind: str
    counts_as: FlopClass
    copies: int
    forward: int
    backward: int
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Totals [FLOPs], sums of rows. All but `backward` and `total` are of the forward pass.

    `linear`, `attention_core`, `index`, `scan` and `conv` are the backbone's and add up to `backbone`. Multi-token
    prediction is apart.
    """

    forward: int
    backward: int
    total: int
    linear: int
    attention_core: int
    index: int
    scan: int
    conv: int
    backbone: int
    vision: int
    projector: int
    mtp: int


def flop_rows(tape: Tape) -> list[FlopRow]:
    """Every operation that costs FLOPs, in forward order.

    Counted: 2 a multiply-add in linears, convolutions, attention scores and values, scans. Not counted: norms, softmax,
    rope, activations and other elementwise work. Backward: weight gradient plus input gradient (none where the input
    needs none); attention twice its forward.
    """
    training = tape.workload.phase == "train"
    rows = []
    for segment in tape.segments:
        for op in segment.ops:
            if op.flops:
                forward = segment.count * value(op.flops)
                experts = product(op.weights[0].stack) if op.weights else 0
                rows.append(
                    FlopRow(
                        op.path,
                        segment.indices,
                        experts,
                        segment.part,
                        op.kind,
                        op.counts_as,
                        segment.count,
                        forward,
                        forward * op.backward_factor if training else 0,
                        op.flops,
                    )
                )
    return rows


def totals(rows: Iterable[FlopRow]) -> Flops:
    """Sums of the rows; multi-token prediction is in `mtp` and in no other total."""
    rows = list(rows)
    main = [row for row in rows if row.part != "mtp"]
    forward, backward = sum(row.forward for row in main), sum(row.backward for row in main)
    part = {name: sum(row.forward for row in main if row.part == name) for name in ("backbone", "vision", "projector")}
    backbone: dict[FlopClass, int] = dict.fromkeys(get_args(FlopClass), 0)
    for row in main:
        if row.part == "backbone":
            backbone[row.counts_as] += row.forward
    if sum(part.values()) != forward or sum(backbone.values()) != part["backbone"]:
        raise AssertionError("parts do not add up to the forward pass")
    return Flops(
        forward=forward,
        backward=backward,
        total=forward + backward,
        linear=backbone["linear"],
        attention_core=backbone["attention"],
        index=backbone["index"],
        scan=backbone["scan"],
        conv=backbone["conv"],
        backbone=part["backbone"],
        vision=part["vision"],
        projector=part["projector"],
        mtp=sum(row.forward + row.backward for row in rows if row.part == "mtp"),
    )
