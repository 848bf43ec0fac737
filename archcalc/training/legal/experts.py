"""Rules of routed experts and the devices that share them."""

from __future__ import annotations

from archcalc.training.legal.rule import ARGUMENTS, CONFIG, Case, Found, Rule, found


def _torchtitan_experts(case: Case) -> Found | None:
    """Expert parallelism borrows whole cp and tp groups, and some of the devices that shard."""
    p, replicas = case.plan.parallel, 1 if case.plan.fsdp is None else case.plan.fsdp.replicate
    if p.ep == 1:
        return None
    if p.etp not in (1, p.tp):
        return found(f"etp {p.etp} is neither 1 nor tp {p.tp}", "parallel.etp", "parallel.tp", value=p.etp)
    borrowed = p.cp * (1 if p.etp == p.tp else p.tp)
    if p.ep % borrowed or (p.dense_dp // replicas * borrowed) % p.ep:
        return found(
            f"ep {p.ep} is no multiple of {borrowed} devices that share a sequence, or no divisor of"
            f" {p.dense_dp // replicas * borrowed} that shard",
            "parallel.ep",
            "parallel.cp",
            "parallel.tp",
            value=p.ep,
        )
    return None


def _experts_missing(case: Case) -> Found | None:
    p = case.plan.parallel
    if case.facts.experts is not None or p.ep * p.etp == 1:
        return None
    return found(
        "ep and etp need routed experts, which this model does not have",
        "parallel.ep" if p.ep > 1 else "parallel.etp",
        hint="set parallel.ep=1 and parallel.etp=1",
        value=p.ep if p.ep > 1 else p.etp,
    )


def _experts_without_sp(case: Case) -> Found | None:
    p = case.plan.parallel
    if case.facts.experts is None or p.tp == 1 or p.sp:
        return None
    return found(
        "a mixture of experts over tp needs sp: Megatron-LM routes each token on one tensor-parallel device only",
        "parallel.tp",
        "parallel.sp",
        hint="set parallel.sp=true",
        value=p.tp,
    )


def _expert_biases(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.etp == 1 or not case.facts.expert_bias:
        return None
    return found(
        "experts with biases can't be divided over etp", "parallel.etp", hint="set parallel.etp=1", value=p.etp
    )


def _experts_in_fp16(case: Case) -> Found | None:
    if case.plan.parallel.ep == 1 or case.plan.precision.params != "fp16":
        return None
    message = "ep is not supported with weights in fp16"
    return found(message, "precision.params", "parallel.ep", hint="set precision.params=bf16", value="fp16")


EXPERTS = (
    Rule(
        "experts, borrowed groups",
        "`etp` other than 1 and tp; `ep` that holds no whole cp (and tp) groups, or does not divide what shards",
        "torchtitan distributed/parallel_dims.py, _validate",
        _torchtitan_experts,
        ("torchtitan",),
    ),
    Rule(
        "experts there are none of",
        "`ep` or `etp` above 1 for a model without routed experts",
        CONFIG,
        _experts_missing,
        model=True,
    ),
    Rule(
        "experts over tp",
        "Routed experts and tp above 1 without `sp`",
        "Megatron-LM core/transformer/moe/moe_layer.py, MoELayer.forward",
        _experts_without_sp,
        model=True,
    ),
    Rule(
        "biases of experts",
        "`etp` above 1 where experts have biases",
        CONFIG,
        _expert_biases,
        ("megatron",),
        model=True,
    ),
    Rule("experts in fp16", "`ep` above 1 with `precision.params: fp16`", ARGUMENTS, _experts_in_fp16, ("megatron",)),
)
