"""Rules of sharding as torch's FSDP2 does it."""

from __future__ import annotations

from archcalc.training.legal.rule import ARGUMENTS, Case, Found, Rule, found
from archcalc.training.parts import way


def _fsdp_is_zero_3(case: Case) -> Found | None:
    zero = case.plan.parallel.zero
    if case.plan.fsdp is None or zero == 3:
        return None
    message = f"fsdp divides weights, gradients and states: that is parallel.zero 3, not {zero}"
    return found(message, "fsdp", "parallel.zero", hint="set parallel.zero=3, or leave fsdp out")


def _fsdp_gradients(case: Case) -> Found | None:
    said = case.plan.precision
    if case.plan.fsdp is None or said.params == said.grads:
        return None
    message = f"under fsdp a gradient at rest has its parameter's dtype: precision.grads must be {said.params}"
    return found(message, "precision.grads", "precision.params")


def _fsdp_quantized(case: Case) -> Found | None:
    if case.plan.fsdp is None:
        return None
    for part, said in case.plan.train:
        if said is not None and way(said).kind == "qlora":
            message = "fsdp gathers weights in one dtype; how it would quantized ones is not known here"
            return found(message, f"train.{part}", "fsdp", hint=f"train.{part}: lora(R), or leave fsdp out")
    return None


def _fsdp_alone(case: Case) -> Found | None:
    plan = case.plan
    if plan.fsdp is None:
        return None
    for path, said in (
        ("precision.muon_layout", plan.precision.muon_layout == "whole"),
        ("memory.optimizer_offload", plan.memory.optimizer_offload > 0),
    ):
        if said:
            return found(f"{path} is counted as Megatron-LM does it, not under fsdp", path, "fsdp")
    if plan.schedule.ep_overlap:
        message = "ep_overlap is Megatron-LM's, which does not shard as fsdp says"
        return found(message, "schedule.ep_overlap", "fsdp")
    return None


def _replicas(case: Case) -> Found | None:
    plan, p = case.plan, case.plan.parallel
    if plan.fsdp is None:
        return None
    for name, devices in (("data-parallel", p.dense_dp), ("expert data-parallel", p.expert_dp)):
        if devices % plan.fsdp.replicate:
            message = f"{devices} {name} devices do not divide into {plan.fsdp.replicate} replicas"
            return found(message, "fsdp.replicate")
    return None


def _megatron_fsdp(case: Case) -> Found | None:
    """What --use-torch-fsdp2 excludes."""
    plan = case.plan
    if plan.fsdp is None:
        return None
    for path, wrong, why in (
        ("parallel.pp", plan.parallel.pp > 1, "pipeline parallelism"),
        ("parallel.ep", plan.parallel.ep > 1, "expert parallelism"),
        ("precision.params", plan.precision.params == "fp16", "fp16"),
        ("precision.optimizer", plan.precision.optimizer.startswith("muon"), "Muon"),
        (
            "memory.gradient_accumulation_fusion",
            plan.memory.gradient_accumulation_fusion,
            "gradient accumulation fusion",
        ),
    ):
        if wrong:
            hint = f"set {path}=false" if path.startswith("memory.") else None
            return found(f"fsdp is --use-torch-fsdp2 here, which is not supported with {why}", path, "fsdp", hint=hint)
    return None


def _megatron_fsdp_tied(case: Case) -> Found | None:
    if case.plan.fsdp is None or not case.facts.tied:
        return None
    message = "fsdp is --use-torch-fsdp2 here, which needs a head of its own, and the model's is its embedding"
    return found(message, "fsdp", hint="use stack: torch-fsdp2, or leave fsdp out")


FSDP = (
    Rule("fsdp", "`fsdp` where zero is not 3", "torch distributed/fsdp, fully_shard", _fsdp_is_zero_3),
    Rule("fsdp, quantized", "`fsdp` with a part under `qlora`", "Not counted", _fsdp_quantized),
    Rule(
        "fsdp, gradients",
        "`fsdp` with `grads` of another dtype than `params`",
        "torch distributed/fsdp/_fully_shard/_fsdp_collectives.py, foreach_reduce",
        _fsdp_gradients,
    ),
    Rule(
        "fsdp, what is Megatron-LM's",
        "`fsdp` with `muon_layout: whole`, `optimizer_offload` or `ep_overlap`",
        "Not counted",
        _fsdp_alone,
    ),
    Rule(
        "replicas",
        "`fsdp.replicate` that does not divide the data-parallel devices, of experts too",
        "torchtitan distributed/parallel_dims.py, _validate and build_mesh",
        _replicas,
    ),
    Rule(
        "fsdp under Megatron-LM",
        "`fsdp` with pp or ep above 1, `params: fp16`, Muon or `gradient_accumulation_fusion`",
        f"{ARGUMENTS}: --use-torch-fsdp2",
        _megatron_fsdp,
        ("megatron",),
    ),
    Rule(
        "fsdp under Megatron-LM, tied",
        "`fsdp` of a model whose head is its embedding",
        f"{ARGUMENTS}: --use-torch-fsdp2",
        _megatron_fsdp_tied,
        ("megatron",),
        model=True,
    ),
)
