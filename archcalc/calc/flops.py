"""FLOPs: a fold over the operations of a tape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archcalc.tape import Number, Part, Tape, product, value


class FlopRow(NamedTuple):
    """One operation of one segment, all its copies together [FLOPs].

    `number` is the forward of a single copy, with its formula; `backward` is 0 unless the workload trains.
    """

    path: str
    indices: tuple[int, ...]
    experts: int
    part: Part
    kind: str
    copies: int
    forward: int
    backward: int
    number: Number


class Flops(NamedTuple):
    """Totals [FLOPs], sums of rows. All but `backward` and `total` are of the forward pass.

    `linear` and `attention_core` are the backbone's and add up to `backbone`. Multi-token prediction is apart.
    """

    forward: int
    backward: int
    total: int
    linear: int
    attention_core: int
    backbone: int
    vision: int
    projector: int
    mtp: int


def flop_rows(tape: Tape) -> list[FlopRow]:
    """Every operation that costs FLOPs, in forward order.

    Counted: 2 a multiply-add in linears, convolutions, attention scores and values. Not counted: norms, softmax, rope,
    activations and other elementwise work. Backward: weight gradient plus input gradient (none where the input needs
    none); attention twice its forward.
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
    core = sum(row.forward for row in main if row.part == "backbone" and row.kind == "attention")
    if sum(part.values()) != forward:
        raise AssertionError("parts do not add up to the forward pass")
    return Flops(
        forward=forward,
        backward=backward,
        total=forward + backward,
        linear=part["backbone"] - core,
        attention_core=core,
        backbone=part["backbone"],
        vision=part["vision"],
        projector=part["projector"],
        mtp=sum(row.forward + row.backward for row in rows if row.part == "mtp"),
    )
