"""Where gradients go when not every weight is trained: what each operation keeps and computes backward then.

A tensor requires a gradient if a trained weight, or another tensor that does, goes into it (torch, autograd mechanics:
`requires_grad`). An operation without such an operand and without a trained weight is not in the graph: it keeps
nothing and has no backward. One with a frozen weight has no gradient of that weight to compute, and keeps what that
alone would take no longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby

from archcalc.tape import Op, Segment, Storage, Tape, Weight

Unit = tuple[int, int | None]
"""One copy of a segment: its place on the tape, and which of its layers it is."""


def followed(tape: Tape) -> Tape:
    """A tape with gradients only where its trained weights ask for them.

    Layers of one kind are divided where the first of them has nothing trained before it and the next ones have.
    """
    layers: dict[tuple[int, bool], list[int]] = {}
    graded = False
    for n, layer in _in_order(tape.segments):
        segment = tape.segments[n]
        layers.setdefault((n, graded), [])
        if layer is not None:
            layers[n, graded].append(layer)
        if not _ends(segment):
            graded = graded or _passes(segment)
    new = copy(tape)
    new.segments = [
        _cut(tape.segments[n], tuple(indices), entry=entry)
        for (n, entry), indices in sorted(layers.items(), key=lambda item: item[0])
    ]
    return new


def _in_order(segments: Sequence[Segment]) -> Iterator[Unit]:
    """Every copy of every segment in the order that they run in: kinds of layers take turns."""
    for (_, layered), run in groupby(enumerate(segments), key=lambda item: (item[1].part, bool(item[1].indices))):
        units = [(n, layer) for n, segment in run for layer in segment.indices or (None,)]
        yield from sorted(units, key=lambda unit: unit[1] or 0) if layered else units


def _ends(segment: Segment) -> bool:
    """Whether the residual ends here: the head hands none on."""
    return any(op.site == "head" for op in segment.ops)


def _passes(segment: Segment) -> bool:
    """Whether what a segment makes last requires a gradient, where its input does not."""
    return [alive for _, alive, _ in _walk(segment, entry=False)][-1] if segment.ops else False


def _walk(segment: Segment, *, entry: bool) -> Iterator[tuple[Op, bool, bool]]:
    """Each operation, whether it is in the graph, and whether an operand requires a gradient.

    What has neither operands nor weights goes with the operation before it (router probabilities in an activation).
    """
    graded: set[Storage] = {*segment.beside, *((segment.entry,) if segment.entry else ())} if entry else set()
    before = entry
    for op in segment.ops:
        into = any(storage in graded for storage in op.inputs)
        alive = into or any(w.trained for w in op.weights) or (before and not op.inputs and not op.weights)
        if alive:
            graded.update(op.outputs)
        before = alive
        yield op, alive, into


def _cut(segment: Segment, layers: tuple[int, ...], *, entry: bool) -> Segment:
    """A segment, or the copies of it for some layers, with what its gradients take."""
    new = Segment(segment.path, layers, segment.part, segment.entry)
    new.beside, new.handed = segment.beside, segment.handed
    walked = list(_walk(segment, entry=entry))
    own = {} if layers == segment.indices else _weights_of(segment, layers)
    new.ops = [
        _backward(op, alive, into)._replace(weights=tuple(own.get(id(w), w) for w in op.weights))
        for op, alive, into in walked
    ]
    new.learns = any(alive for _, alive, _ in walked)
    touched = {s for op in segment.ops for s in (*op.inputs, *op.outputs)}
    reached = {s for op, alive, _ in walked if alive for s in op.outputs}
    outside = {segment.entry, *segment.beside} if entry else set()
    new.ungraded = frozenset(touched - reached - outside)
    return new


def _weights_of(segment: Segment, layers: tuple[int, ...]) -> dict[int, Weight]:
    """Weights of some of a segment's layers, by the identity of what stands for all of them."""
    return {id(w): w.replace(indices=layers, whole=w) for op in segment.ops for w in op.weights if w.indices}


def _backward(op: Op, alive: bool, into: bool) -> Op:
    """An operation with what the gradients that it has keep and cost."""
    if not alive:
        return op._replace(saves=(), backward_factor=0, weight_gradient="none")
    trained = any(w.trained for w in op.weights)
    asked = {"any": True, "weight": trained, "input": into}
    factor = op.backward_factor
    if op.weights and op.counts_as in ("linear", "conv"):
        factor = min(factor, trained + into)
    return op._replace(
        saves=tuple(save for save in op.saves if asked[save.needs]),
        backward_factor=factor,
        weight_gradient=op.weight_gradient if trained else "none",
    )
