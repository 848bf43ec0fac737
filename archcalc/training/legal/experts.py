"""Rules of routed experts and the devices that share them."""

from __future__ import annotations

from archcalc.training.legal.rule import CONFIG, Case, Found, Rule, found


def _torchtitan_widths(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.ep == 1 or p.etp in (1, p.tp):
        return None
    return found(f"etp {p.etp} is neither 1 nor tp {p.tp}", "parallel.etp", "parallel.tp", value=p.etp)


def _experts_missing(case: Case) -> Found | None:
    p = case.plan.parallel
    if case.facts.experts is not None or p.ep == 1:
        return None
    message = "ep needs routed experts, which this model does not have"
    return found(message, "parallel.ep", hint="set parallel.ep=1", value=p.ep)


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


EXPERTS = (
    Rule(
        "widths of experts",
        "`etp` other than 1 and tp where ep is above 1",
        "torchtitan distributed/parallel_dims.py, _validate; from 0.3 on it has no etp at all",
        _torchtitan_widths,
        ("torchtitan",),
    ),
    Rule(
        "experts there are none of",
        "`ep` above 1 for a model without routed experts",
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
)
