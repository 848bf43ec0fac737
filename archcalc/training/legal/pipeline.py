"""Rules of the pipeline: its schedule, and the layers of its stages."""

from __future__ import annotations

from archcalc.errors import InputError
from archcalc.training.legal.rule import CONFIG, Case, Found, Rule, found
from archcalc.training.placement import stage_layers
from archcalc.training.schedule import get_schedule

MEGATRON_SCHEDULES = ("1f1b", "interleaved-1f1b")
DEEPSPEED_SCHEDULES = ("1f1b",)
TORCH_SCHEDULES = ("gpipe", "1f1b", "interleaved-1f1b", "zb-v", "dualpipe-v")
"""What each framework can be asked for, of the schedules that plans have."""

_FEWER = "use fewer pipeline stages, or list the layers of each stage under parallel.layout"


def _schedule(case: Case) -> Found | None:
    try:
        get_schedule(case.plan.schedule.kind).validate(case.plan.pipeline)
    except InputError as error:
        return found(error.message, "schedule.kind", "parallel", hint=error.hint, value=error.value)
    return None


def _unknown_schedule(known: tuple[str, ...], case: Case) -> Found | None:
    kind = case.plan.schedule.kind
    if kind in known:
        return None
    message = f"the stack has no schedule {kind}"
    return found(message, "schedule.kind", hint=f"it has {', '.join(known)}", value=kind)


def _megatron_schedule(case: Case) -> Found | None:
    return _unknown_schedule(MEGATRON_SCHEDULES, case)


def _deepspeed_schedule(case: Case) -> Found | None:
    return _unknown_schedule(DEEPSPEED_SCHEDULES, case)


def _torch_schedule(case: Case) -> Found | None:
    return _unknown_schedule(TORCH_SCHEDULES, case)


def _torch_chunks(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.pp == 1 or p.vpp > 1 or case.plan.schedule.kind != "interleaved-1f1b":
        return None
    message = "interleaved-1f1b needs two stages a rank at least, and vpp is 1"
    return found(message, "parallel.vpp", "schedule.kind", hint="set schedule.kind=1f1b", value=1)


def _torch_rounds(case: Case) -> Found | None:
    plan = case.plan
    rounds = max(1, plan.micro_batches // plan.parallel.pp)
    if plan.schedule.kind != "interleaved-1f1b" or plan.micro_batches % rounds == 0:
        return None
    message = f"{plan.micro_batches} micro-batches are no multiple of {rounds} rounds, one for each pp of them"
    return found(message, "batch.global_tokens", "parallel.pp", value=plan.micro_batches)


def _torch_filled(case: Case) -> Found | None:
    plan, pp = case.plan, case.plan.parallel.pp
    if plan.schedule.kind != "1f1b" or pp == 1 or plan.micro_batches >= pp:
        return None
    message = f"1f1b needs as many micro-batches as stages, {pp}; there are {plan.micro_batches}"
    return found(message, "batch.global_tokens", "parallel.pp", "schedule.kind", value=plan.batch.global_tokens)


def _overlap_alone(case: Case) -> Found | None:
    if not case.plan.schedule.ep_overlap or case.plan.parallel.ep > 1:
        return None
    message = "ep_overlap hides what expert-parallel devices exchange, and ep is 1"
    return found(message, "schedule.ep_overlap", "parallel.ep")


def _overlap_in_fp32(case: Case) -> Found | None:
    if not case.plan.schedule.ep_overlap or case.plan.precision.params != "fp32":
        return None
    message = "ep_overlap needs weights in bf16 or fp16"
    return found(message, "precision.params", "schedule.ep_overlap", value="fp32")


def _overlap_recompute(case: Case) -> Found | None:
    plan = case.plan
    if not plan.schedule.longer_by or plan.parallel.ep == 1:
        return None
    for name in ("moe", "full"):
        if name in plan.activations.recompute:
            return found(
                f"recompute {name} and an extra warm-up exclude each other: the warm-up overlaps expert communication"
                " with compute, which Megatron-LM forbids where the whole of it is recomputed",
                "activations.recompute",
                "schedule.extra_warmup",
            )
    return None


def _overlap_mtp(case: Case) -> Found | None:
    if not case.plan.schedule.ep_overlap or case.facts.mtp <= 1:
        return None
    message = f"ep_overlap takes one module of multi-token prediction, and the model has {case.facts.mtp}"
    return found(message, "schedule.ep_overlap", hint="leave ep_overlap out")


def _layout(case: Case) -> Found | None:
    """The plan alone tells how many stages there are, a model how many layers."""
    plan, layers = case.plan, None if case.model is None else case.model.layers
    slots = get_schedule(plan.schedule.kind).stages(plan.parallel.pp, plan.parallel.vpp)
    layout = plan.parallel.layout
    if isinstance(layout, str) or (len(layout) == slots and layers in (None, sum(layout))):
        return None
    return found(
        f"layout lists {len(layout)} stages with {sum(layout)} layers; the plan has {slots} stages"
        + ("" if layers is None else f", the model {layers} layers"),
        "parallel.layout",
        "parallel.pp",
        "parallel.vpp",
        hint="give the layers of each of the pp x vpp stages, in the model's order, or auto",
        value=list(layout),
    )


def _weighed_out(case: Case) -> Found | None:
    """torchtitan weighs embedding and head as a layer each, and refuses stages without anything."""
    plan, layers = case.plan, case.facts.layers
    slots = get_schedule(plan.schedule.kind).stages(plan.parallel.pp, plan.parallel.vpp)
    if case.stack is None or case.stack.layers != "weighted" or plan.parallel.layout != "auto":
        return None
    if slots == 1 or (layers + 2) // slots:
        return None
    message = f"{layers} layers, embedding and head can't be laid out over {slots} stages: some would be empty"
    return found(message, "parallel.pp", "parallel.vpp", hint=_FEWER, value=slots)


def _idle_rank(case: Case) -> Found | None:
    """A rank none of whose stages has anything: the first has the embedding, the last the head."""
    plan, layers = case.plan, case.facts.layers
    schedule, p = get_schedule(plan.schedule.kind), plan.parallel
    slots = schedule.stages(p.pp, p.vpp)
    if isinstance(p.layout, str) and (layers >= slots or (case.stack is not None and case.stack.layers == "weighted")):
        return None
    if _layout(case) is not None:
        return None
    held = stage_layers(layers, slots, p.layout)
    for rank in range(p.pp):
        if not any(held[stage] or stage in (0, slots - 1) for stage in schedule.held(p.pp, p.vpp, rank)):
            message = f"pipeline rank {rank} would hold nothing: {layers} layers over {slots} stages"
            return found(message, "parallel.pp", "parallel.layout", hint=_FEWER, value=p.pp)
    return None


PIPELINE = (
    Rule(
        "schedule",
        "Sizes that a schedule can't be laid out for: virtual stages, groups, warm-up, micro-batches of a step",
        "Megatron-LM core/pipeline_parallel/schedules.py, forward_backward_pipelining_with_interleaving; torch"
        " distributed/pipelining/schedules.py; github.com/deepseek-ai/DualPipe",
        _schedule,
    ),
    Rule(
        "schedules there are none of",
        f"A schedule other than {', '.join(f'`{kind}`' for kind in MEGATRON_SCHEDULES)}",
        "Megatron-LM core/pipeline_parallel/schedules.py, get_forward_backward_func",
        _megatron_schedule,
        ("megatron",),
    ),
    Rule(
        "schedules there are none of",
        f"A schedule other than {', '.join(f'`{kind}`' for kind in DEEPSPEED_SCHEDULES)}",
        "DeepSpeed runtime/pipe/schedule.py, TrainSchedule",
        _deepspeed_schedule,
        ("deepspeed",),
    ),
    Rule(
        "schedules there are none of",
        f"A schedule other than {', '.join(f'`{kind}`' for kind in TORCH_SCHEDULES)}",
        "torch distributed/pipelining/schedules.py, get_schedule_class",
        _torch_schedule,
        ("torchtitan",),
    ),
    Rule(
        "interleaving one stage",
        "`interleaved-1f1b` where vpp is 1",
        "torchtitan distributed/pipeline_parallel.py, pipeline_llm; from 0.3 on _get_pipeline_metadata",
        _torch_chunks,
        ("torchtitan",),
    ),
    Rule(
        "rounds",
        "`interleaved-1f1b` with micro-batches that are no multiple of their number over pp, rounded down",
        "torch distributed/pipelining/schedules.py, ScheduleInterleaved1F1B",
        _torch_rounds,
        ("torchtitan",),
    ),
    Rule(
        "fewer micro-batches than stages",
        "`1f1b` with fewer micro-batches than pp",
        "torch distributed/pipelining/schedules.py, Schedule1F1B",
        _torch_filled,
        ("torchtitan",),
    ),
    Rule(
        "overlap of nothing",
        "`ep_overlap` where ep is 1",
        CONFIG,
        _overlap_alone,
    ),
    Rule(
        "overlap in fp32",
        "`ep_overlap` with `precision.params: fp32`",
        CONFIG,
        _overlap_in_fp32,
    ),
    Rule(
        "overlap and recompute",
        "A longer warm-up under ep with `recompute` of `moe` or `full`",
        f"{CONFIG}; `full` by chunks, which is newer, is not counted",
        _overlap_recompute,
    ),
    Rule(
        "overlap and prediction",
        "`ep_overlap` with more than one module of multi-token prediction",
        CONFIG,
        _overlap_mtp,
        model=True,
    ),
    Rule(
        "layout",
        "A list under `layout` with other than pp x vpp stages, or another sum than the model's layers",
        "Megatron-LM core/transformer/pipeline_parallel_layer_layout.py, validate_layer_layout",
        _layout,
    ),
    Rule(
        "stages without a weight",
        "More stages than layers, embedding and head, with `layout: auto`",
        "torchtitan distributed/pipeline_parallel.py, generate_llm_fqn_per_model_part",
        _weighed_out,
        ("torchtitan",),
        model=True,
    ),
    Rule(
        "ranks without a layer",
        "A pipeline rank that would hold nothing; single chunks may, with a warning",
        "A device without work is a slip of the plan; Megatron-LM takes empty chunks in"
        " core/transformer/pipeline_parallel_layer_layout.py",
        _idle_rank,
        model=True,
    ),
)
