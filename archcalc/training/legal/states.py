"""Rules of weights, gradients and optimizer states: who has them, in which dtype, and where."""

from __future__ import annotations

from archcalc.training.legal.rule import ARGUMENTS, CONFIG, Case, Found, Rule, found
from archcalc.training.optimizer import optimizer

_OPTIMIZER = "Megatron-LM core/optimizer/optimizer_config.py, __post_init__"


def _megatron_zero(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.zero < 2 or p.pp == 1 or case.plan.fsdp is not None:
        return None
    return found(
        f"zero {p.zero} with a pipeline: the distributed optimizer divides optimizer states alone, which is zero 1, and"
        " gradients are summed over a step's micro-batches before they are reduced",
        "parallel.zero",
        "parallel.pp",
        hint="set parallel.zero=1, or parallel.pp=1",
        value=p.zero,
    )


def _deepspeed_zero(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.zero < 2 or p.pp == 1:
        return None
    return found(
        f"zero {p.zero} with a pipeline: ZeRO-2 and ZeRO-3 are incompatible with pipeline parallelism",
        "parallel.zero",
        "parallel.pp",
        hint="set parallel.zero=1, or parallel.pp=1",
        value=p.zero,
    )


def _gradients(case: Case) -> Found | None:
    said = case.plan.precision
    if said.grads in ("fp32", said.params):
        return None
    return found(
        f"grads {said.grads} of params {said.params}: a gradient has its weight's dtype, or is summed in fp32",
        "precision.grads",
        "precision.params",
        hint=f"set precision.grads to fp32{'' if said.params == 'fp32' else f' or {said.params}'}",
        value=said.grads,
    )


def _muon_layout(case: Case) -> Found | None:
    said = case.plan.precision
    if "muon_layout" not in said.model_fields_set or optimizer(said.optimizer).whole_matrices:
        return None
    return found(
        f"muon_layout is a layout of Muon's matrices, and the optimizer is {said.optimizer}",
        "precision.muon_layout",
        "precision.optimizer",
        hint="leave it out, or set optimizer to muon",
    )


def _remainders(case: Case) -> Found | None:
    """Checked before `_fp8_weights`, whose weights are no bf16 ones either."""
    said = case.plan.precision
    if optimizer(said.optimizer).master != 2 or said.params == "bf16":
        return None
    return found(
        f"{said.optimizer} keeps 16 more bits of a bf16 weight, and params is {said.params}",
        "precision.optimizer",
        "precision.params",
        hint="set precision.params=bf16, or use adamw",
        value=said.optimizer,
    )


def _fp8_weights(case: Case) -> Found | None:
    said = case.plan.precision
    if not said.fp8_params:
        return None
    if said.fp8 == "none":
        message = "weights in FP8 need a recipe"
        return found(message, "precision.fp8_params", "precision.fp8", hint="set fp8 to tensorwise")
    if said.params == "fp32":
        message = "weights in FP8 stand in for weights in 16 bits"
        return found(message, "precision.fp8_params", "precision.params")
    if optimizer(said.optimizer).master < 4:
        return found(
            f"{said.optimizer} keeps 16 more bits of a bf16 weight, and the weights are in FP8",
            "precision.fp8_params",
            "precision.optimizer",
            hint="use an optimizer with fp32 master weights, such as adamw",
        )
    return None


def _fp8_gathered(case: Case) -> Found | None:
    if not case.plan.precision.fp8_params or case.plan.parallel.zero:
        return None
    message = "weights in FP8 need the distributed optimizer, which is zero 1"
    return found(message, "precision.fp8_params", "parallel.zero", hint="set parallel.zero=1")


PRECISION_AWARE = ("adamw-bf16-moments", "adamw-param-remainders", "adamw-precision-aware", "adam-8bit")


def _precision_aware(case: Case) -> Found | None:
    name = case.plan.precision.optimizer
    if name not in PRECISION_AWARE or case.plan.parallel.zero:
        return None
    message = f"{name} is --use-precision-aware-optimizer, which needs the distributed optimizer: zero 1"
    return found(message, "precision.optimizer", "parallel.zero", hint="set parallel.zero=1", value=name)


def _offloaded_states(case: Case) -> Found | None:
    plan = case.plan
    if not plan.memory.optimizer_offload:
        return None
    name = plan.precision.optimizer
    if not name.startswith("adam") or not plan.parallel.zero:
        wrong = f"zero is {plan.parallel.zero}" if name.startswith("adam") else f"the optimizer is {name}"
        return found(
            f"optimizer_offload needs --use-precision-aware-optimizer, which is Adam's and the distributed optimizer's:"
            f" {wrong}",
            "memory.optimizer_offload",
            "precision.optimizer",
            "parallel.zero",
        )
    if plan.precision.fp8_params and plan.precision.fp8 != "delayed":
        message = f"optimizer_offload with weights in FP8 needs the recipe delayed, and it is {plan.precision.fp8}"
        return found(message, "memory.optimizer_offload", "precision.fp8")
    return None


STATES = (
    Rule(
        "ZeRO and pipeline",
        "`zero` 2 or 3 where pp is above 1",
        f"Megatron-LM core/optimizer/distrib_optimizer.py, DistributedOptimizer; {ARGUMENTS}: --use-torch-fsdp2",
        _megatron_zero,
        ("megatron",),
    ),
    Rule(
        "ZeRO and pipeline",
        "`zero` 2 or 3 where pp is above 1",
        "DeepSpeed runtime/pipe/engine.py, PipelineEngine.__init__",
        _deepspeed_zero,
        ("deepspeed",),
    ),
    Rule(
        "dtype of gradients",
        "`grads` that are neither fp32 nor of the dtype of `params`",
        "Megatron-LM core/distributed/distributed_data_parallel.py: grad_reduce_in_fp32 or the weight's; torch's .grad",
        _gradients,
    ),
    Rule(
        "layout of Muon",
        "`muon_layout` with another optimizer",
        "Muon alone steps whole matrices (arXiv:2502.16982)",
        _muon_layout,
    ),
    Rule(
        "remainders",
        "Optimizers that keep 16 more bits of a weight, with `params` other than bf16",
        "TransformerEngine pytorch/optimizers/fused_adam.py, FusedAdam: store_param_remainders",
        _remainders,
    ),
    Rule(
        "weights in FP8",
        "`fp8_params` without `fp8`, with `params: fp32`, or with an optimizer without an fp32 master",
        f"{CONFIG}; TransformerEngine pytorch/optimizers/fused_adam.py",
        _fp8_weights,
    ),
    Rule("weights in FP8, gathered", "`fp8_params` where zero is 0", ARGUMENTS, _fp8_gathered, ("megatron",)),
    Rule(
        "precision-aware optimizer",
        f"{', '.join(f'`{name}`' for name in PRECISION_AWARE)} where zero is 0",
        _OPTIMIZER,
        _precision_aware,
        ("megatron",),
    ),
    Rule(
        "offloaded states",
        "`optimizer_offload` with another optimizer than Adam, with zero 0, or with weights in FP8 but of recipe"
        " `delayed`",
        f"{ARGUMENTS}; {_OPTIMIZER}",
        _offloaded_states,
        ("megatron",),
    ),
)
