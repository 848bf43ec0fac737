"""Rules of activations: how they are kept, made again and routed; and of memory that no formula gives."""

from __future__ import annotations

from archcalc.training.activations import Spread
from archcalc.training.legal.rule import ARGUMENTS, CONFIG, Case, Found, Rule, found
from archcalc.training.routing import worst_imbalance
from archcalc.training.savers import FULL, RECOMPUTE

LEAST_EFFICIENCY = 0.1
"""Allocated over reserved memory. Logs have 0.7 to 1; torch hands cached blocks back before it gives up
(c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks), so that less than this is no run that goes on."""

LEAST_UTILIZATION = 0.001
"""Of the peak FLOP/s. Published runs reach 0.2 to 0.7."""

OFFLOADED = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", "expert_fc1", "moe_act")
"""Modules of --offload-modules."""

RECOMPUTED = (FULL, *(name for name in RECOMPUTE if name != "moe_down_proj"))
"""What Megatron-LM's --recompute-modules and --recompute-granularity can say, as plans name it."""


def _full_and_more(case: Case) -> Found | None:
    names = case.plan.activations.recompute
    if FULL not in names or len(names) == 1:
        return None
    others = ", ".join(name for name in names if name != FULL)
    return found(
        f"recompute full makes whole layers again, and leaves nothing for {others}: granularity is full or selective",
        "activations.recompute",
        hint=f"write [full], or [{others}]",
        value=names,
    )


def _two_selections(case: Case) -> Found | None:
    said = case.plan.activations
    if said.selective is None or not said.recompute:
        return None
    message = "selective recomputes all of a layer but what it names: recompute has nothing left to choose"
    return found(message, "activations.selective", "activations.recompute")


def _recompute_modules(case: Case) -> Found | None:
    unknown = [name for name in case.plan.activations.recompute if name not in RECOMPUTED]
    if not unknown:
        return None
    message, hint = f"--recompute-modules has no {', '.join(unknown)}", f"it has {', '.join(RECOMPUTED[1:])}"
    return found(message, "activations.recompute", hint=hint)


def _mla_alone(case: Case) -> Found | None:
    if "mla_up_proj" not in case.plan.activations.recompute or case.facts.sites & {"kv_up", "kv_down"}:
        return None
    message = "recompute mla_up_proj needs multi-latent attention, which this model does not have"
    return found(message, "activations.recompute", hint="leave mla_up_proj out")


def _delayed_again(case: Case) -> Found | None:
    again = [name for name in case.plan.activations.recompute if name in ("layernorm", "swiglu")]
    if case.plan.precision.fp8 != "delayed" or not again:
        return None
    message = f"delayed scaling does not support recompute of {' and '.join(again)}"
    return found(message, "activations.recompute", "precision.fp8", hint="set precision.fp8=tensorwise")


def _divided_scores(case: Case) -> Found | None:
    if case.plan.parallel.cp == 1 or case.plan.activations.core != "unfused":
        return None
    return found(
        "unfused attention holds whole rows of scores, and context parallelism divides them: Megatron-LM's"
        " DotProductAttention refuses it",
        "activations.core",
        "parallel.cp",
    )


def _nondeterministic(case: Case) -> Found | None:
    said = case.plan.activations
    if not said.deterministic or said.loss != "te":
        return None
    message = "deterministic excludes the fused loss, --cross-entropy-loss-fusion"
    return found(message, "activations.deterministic", "activations.cross_entropy", hint="set cross_entropy to fused")


def _offload_names(case: Case) -> tuple[str, ...]:
    said = case.plan.activations.offload
    return tuple(said) if isinstance(said, list) else () if said == "none" else (said,)


def _offload_modules(case: Case) -> Found | None:
    names = _offload_names(case)
    unknown = [name for name in names if name not in OFFLOADED]
    if unknown:
        hint = f"it has {', '.join(OFFLOADED)}"
        return found(f"--offload-modules has no {', '.join(unknown)}", "activations.offload", hint=hint)
    if "attn_proj" in names and "core_attn" not in names:
        message = (
            "offload of attn_proj needs core_attn: its input is core_attn's output, which that one's backward reads"
        )
        return found(message, "activations.offload", hint="add core_attn")
    both = [name for name in names if name in ("moe_act", "expert_fc1")]
    if both and "moe" in case.plan.activations.recompute:
        message = f"recompute moe makes all of it again, and offload has {' and '.join(both)}"
        return found(message, "activations.offload", "activations.recompute")
    return None


def _spread(case: Case) -> Found | None:
    said = case.plan.activations.moe_imbalance
    if not isinstance(said, Spread) or said.worst >= said.typical:
        return None
    return found(f"worst {said.worst:g} is less than typical {said.typical:g}", "activations.moe_imbalance")


def _worst(case: Case) -> float:
    said = case.plan.activations.moe_imbalance
    return 1.0 if isinstance(said, str) else said.worst if isinstance(said, Spread) else said


def _too_uneven(most: float, of: str, case: Case) -> Found | None:
    worst = _worst(case)
    if worst <= most:
        return None
    return found(
        f"moe_imbalance {worst:g}: the busiest of {of} gets at most {most:g} times the mean of the routed rows",
        "activations.moe_imbalance",
        "parallel.ep",
        hint="every token then picks the experts of one device",
        value=worst,
    )


def _more_than_all(case: Case) -> Found | None:
    """One device of ep gets all rows at most, ep times the mean. Where ep is 1 the number counts for nothing, and may
    be one for any ep of this world."""
    p = case.plan.parallel
    return _too_uneven(p.ep, f"{p.ep} devices", case) if p.ep > 1 else _too_uneven(p.world, f"{p.world} devices", case)


def _more_than_picked(case: Case) -> Found | None:
    """A token sends a device as many copies as that has experts for: ep x min(k, E / ep) / k times the mean."""
    p, experts = case.plan.parallel, case.facts.experts
    if p.ep == 1 or experts is None or experts[0] % p.ep:
        return None
    return _too_uneven(worst_imbalance(*experts, p.ep), f"{p.ep} devices", case)


def _allocator(case: Case) -> Found | None:
    said = case.plan.memory.allocator_efficiency
    if said >= LEAST_EFFICIENCY:
        return None
    return found(
        f"allocator_efficiency {said:g}: allocated over reserved memory is not less than {LEAST_EFFICIENCY:g} in a run"
        " that goes on, as torch hands cached blocks back before it gives up",
        "memory.allocator_efficiency",
        hint="it is a share, such as 0.94; logs have 0.7 to 1",
        value=said,
    )


def _utilization(case: Case) -> Found | None:
    said = case.plan.memory.compute_utilization
    if said >= LEAST_UTILIZATION:
        return None
    return found(
        f"compute_utilization {said:g} is less than {LEAST_UTILIZATION:g} of the peak FLOP/s",
        "memory.compute_utilization",
        hint="it is a share, such as 0.4; published runs reach 0.2 to 0.7",
        value=said,
    )


def _vision_twice(case: Case) -> Found | None:
    plan = case.plan
    if not plan.vision.frozen or "vision" not in plan.train.model_fields_set or plan.train.vision == "frozen":
        return None
    message = f"vision.process frozen, and train.vision {plan.train.vision}"
    return found(message, "train.vision", "vision.process", hint="name one of them")


KEPT = (
    Rule(
        "full recompute and more",
        "`full` beside other names under `recompute`",
        f"{CONFIG}: --recompute-granularity is full or selective",
        _full_and_more,
    ),
    Rule(
        "two ways to recompute",
        "`selective` beside `recompute`",
        "torchtitan distributed/activation_checkpoint.py: one mode",
        _two_selections,
    ),
    Rule(
        "recompute modules",
        "`recompute: [moe_down_proj]`",
        CONFIG,
        _recompute_modules,
        ("megatron",),
    ),
    Rule(
        "recompute of MLA",
        "`recompute: [mla_up_proj]` without multi-latent attention",
        CONFIG,
        _mla_alone,
        ("megatron",),
        model=True,
    ),
    Rule(
        "recompute under delayed scaling",
        "`fp8: delayed` with `recompute` of `layernorm` or `swiglu`",
        CONFIG,
        _delayed_again,
        ("megatron",),
    ),
    Rule(
        "unfused attention over cp",
        "`core: unfused` where cp is above 1",
        "Megatron-LM core/transformer/dot_product_attention.py, DotProductAttention.__init__",
        _divided_scores,
    ),
    Rule("deterministic loss", "`deterministic` with `cross_entropy: te`", ARGUMENTS, _nondeterministic, ("megatron",)),
    Rule(
        "offload modules",
        f"`offload` of other than {', '.join(f'`{name}`' for name in OFFLOADED)}; of `attn_proj` without `core_attn`;"
        " of `moe_act` or `expert_fc1` beside `recompute: [moe]`",
        CONFIG,
        _offload_modules,
        ("megatron",),
    ),
    Rule("spread", "`moe_imbalance` whose `worst` is less than `typical`", "The two are a range", _spread),
    Rule(
        "imbalance above ep",
        "`moe_imbalance` above ep (where ep is 1: above world)",
        "One device gets all routed rows at most, which is ep times the mean",
        _more_than_all,
    ),
    Rule(
        "imbalance above what is picked",
        "`moe_imbalance` above ep x min(k, E / ep) / k for k of E experts",
        "A token sends a device one copy for each of its experts at most",
        _more_than_picked,
        model=True,
    ),
    Rule(
        "allocator efficiency",
        f"`allocator_efficiency` below {LEAST_EFFICIENCY:g}",
        "torch c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks; shares in logs",
        _allocator,
    ),
    Rule("compute utilization", f"`compute_utilization` below {LEAST_UTILIZATION:g}", "Published runs", _utilization),
    Rule(
        "vision frozen twice",
        "`vision.process: frozen` with another `train.vision`",
        "Two words for one thing",
        _vision_twice,
    ),
)
