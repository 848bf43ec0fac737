"""The quantities of a spec at a standard workload: what a diff compares, and claims and budgets are held against.

Everything has a default but the plan and the GPU: without them nothing is said of training and serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from archcalc.calc.kv_cache import sequence_cache
from archcalc.documents.document import Value
from archcalc.documents.flops import flops_quantities
from archcalc.documents.kv import LENGTHS, kv_quantities
from archcalc.documents.params import params_quantities
from archcalc.documents.weights import weights
from archcalc.files.model import Spec
from archcalc.workload import Images, Workload

SEQ = 4096
"""Text tokens of the prefill whose FLOPs are standard."""

CONTEXT = LENGTHS["128k"]
"""The length of the sequence whose cache is standard [tokens]."""

IMAGE = (1024, 768)
"""Height and width of the image that a vision tower is shown where none is asked for [pixels]."""

SEEN = ("flops.vision", "flops.projector", "vision.tokens", "vision.patches")
"""Quantities of a vision tower: of the standard image, where no other is asked for."""


def standing(
    spec: Spec,
    *,
    plan: str | None = None,
    set: Sequence[str] = (),
    gpu: str | None = None,
    gpus: int | Literal["auto"] | None = None,
    seq: int | None = None,
    image: Images = (),
    context: int | None = None,
) -> dict[str, Value]:
    """Every quantity of a spec that the arguments settle, by its name in the glossary.

    Args:
        plan: a training plan, a file or a bundled name: with it come `train.*`.
        set: overrides of the plan's fields.
        gpu: a hardware file or a bundled name: with it come `serve.*`, of one sequence in the engine's defaults.
        gpus: GPUs to serve on, the fewest that fit where it is left out.
        seq: text tokens of the prefill, SEQ where it is left out.
        image: (height, width) of each image of the prefill [pixels]. Without any the prefill is of text, and SEEN are
            those of IMAGE alone.
        context: tokens of a cached and served sequence; where it is left out, CONTEXT for the cache, and the model's
            own limit for serving.

    Raises:
        InputError: a plan or GPU that is unknown, or does not fit the spec; images where there is no tower.
    """
    found: dict[str, Value] = {**params_quantities(spec.trace(Workload()))}
    found |= _flops(spec, SEQ if seq is None else seq, image)
    found |= _kv(spec, CONTEXT if context is None else context)
    found |= weights(spec).quantities
    if gpu is not None:
        from archcalc.documents.serve import serve_quantities

        found |= serve_quantities(spec, gpu=gpu, gpus=gpus, context=context)
    if plan is not None:
        from archcalc.documents.train import plan_quantities

        found |= plan_quantities(spec, plan=plan, set=set)
    return found


def _flops(spec: Spec, seq: int, image: Images) -> dict[str, Value]:
    """Of a prefill, and of the tower."""
    shown = tuple((h, w) for h, w in image)
    found: dict[str, Value] = {**flops_quantities(spec, Workload(seq=seq, images=shown))}
    if spec.vision is not None and not shown:
        of_image = flops_quantities(spec, Workload(images=(IMAGE,)))
        found |= {name: of_image[name] for name in SEEN}
    return found


def _kv(spec: Spec, length: int) -> dict[str, Value]:
    """Of one sequence, in bf16, on one device."""
    tape = spec.trace(Workload())
    whole = sequence_cache(tape, "bf16").at(length)
    return {**kv_quantities(tape, "bf16", length), "kv.total_bytes": whole, "kv.bytes_per_device": whole}
