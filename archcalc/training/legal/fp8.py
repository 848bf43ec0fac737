"""Rules of linears that multiply in FP8."""

from __future__ import annotations

from archcalc.calc.sharding import local_features
from archcalc.training.legal.rule import Case, Found, Rule, dim_names, found
from archcalc.training.mesh import mesh_of


def _fp8_kernels(case: Case) -> Found | None:
    if case.plan.precision.fp8 == "none" or case.plan.activations.kernels == "fused":
        return None
    return found(
        "linears in FP8 are TransformerEngine's, and plain code has none",
        "precision.fp8",
        "activations.kernels",
        hint="set activations.kernels to fused",
    )


def _fp8_gathers(case: Case) -> Found | None:
    if case.plan.precision.fp8 == "none" or case.plan.parallel.zero < 3:
        return None
    message = "FP8 with weights divided over devices (ZeRO-3, FSDP) is not modelled"
    return found(message, "precision.fp8", "parallel.zero")


def _fp8_rows(case: Case) -> Found | None:
    """Rows of a dense linear's input on one device; those of experts are padded."""
    plan, p = case.plan, case.plan.parallel
    if plan.precision.fp8 == "none":
        return None
    rows = plan.batch.micro_batch * plan.batch.seq // (p.cp * (p.tp if p.sp else 1))
    multiple = 32 if plan.precision.fp8 == "mxfp8" else 8
    if rows % multiple == 0:
        return None
    message = f"{rows} tokens on a device: FP8 products take multiples of {multiple}"
    return found(message, "batch.seq", "precision.fp8", "batch.micro_batch", "parallel.cp", value=plan.batch.seq)


def _fp8_widths(case: Case) -> Found | None:
    recipe = case.plan.precision.fp8
    if recipe == "none":
        return None
    outs, ins = (32, 32) if recipe == "mxfp8" else (8, 16)
    shards = mesh_of(case.plan, case.stack)
    for out, into in case.facts.linears:
        for dims, multiple in ((out, outs), (into, ins)):
            size = local_features(dims, shards)
            if size % multiple:
                return found(
                    f"{dim_names(dims)}, {size} on a device: FP8 products take multiples of {multiple}",
                    "precision.fp8",
                    "parallel.tp",
                    "parallel.etp",
                    value=recipe,
                )
    return None


FP8 = (
    Rule(
        "FP8 kernels", "`fp8` with `kernels: eager`", "TransformerEngine's modules alone multiply in FP8", _fp8_kernels
    ),
    Rule("FP8 and ZeRO-3", "`fp8` where zero is 3", "Not counted", _fp8_gathers),
    Rule(
        "FP8 rows",
        "`fp8` with tokens on a device that are no multiple of 8, of 32 for `mxfp8`",
        "TransformerEngine pytorch/utils.py, assert_dim_for_fp8_exec; pytorch/tensor/mxfp8_tensor.py, MXFP8Quantizer",
        _fp8_rows,
    ),
    Rule(
        "FP8 widths",
        "`fp8` with a matrix on a device whose inputs are no multiple of 16 or outputs of 8, of 32 both for `mxfp8`",
        "TransformerEngine pytorch/utils.py, assert_dim_for_fp8_exec; pytorch/tensor/mxfp8_tensor.py, MXFP8Quantizer",
        _fp8_widths,
        model=True,
    ),
)
