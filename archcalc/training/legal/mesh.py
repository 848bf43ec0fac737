"""Rules of the mesh: devices, tokens and the sizes that they are divided over."""

from __future__ import annotations

from math import prod

from archcalc.calc.sharding import uneven
from archcalc.training.legal.rule import ARGUMENTS, CONFIG, Case, Found, Rule, found
from archcalc.training.mesh import mesh_of

_WORLD = "the rest of world is data parallel: give it as many GPUs as the run has, or change how they are divided"


def _groups(case: Case, *names: str) -> Found | None:
    """Whether world holds whole groups of these dimensions of the mesh."""
    p = case.plan.parallel
    size = prod(getattr(p, name) for name in names)
    if p.world % size == 0:
        return None
    message = f"world {p.world} is no multiple of {' x '.join(names)} = {size}"
    return found(message, "parallel.world", *(f"parallel.{name}" for name in names), hint=_WORLD)


def _dense_groups(case: Case) -> Found | None:
    return _groups(case, "pp", "tp", "cp")


def _expert_groups(case: Case) -> Found | None:
    return _groups(case, "pp", "ep", "etp")


def _whole_micro_batches(case: Case) -> Found | None:
    plan = case.plan
    if _dense_groups(case) is not None:  # so that no number of data-parallel devices is left
        return None
    rows = plan.batch.seq * plan.batch.micro_batch * plan.parallel.dense_dp
    if plan.batch.global_tokens % rows == 0:
        return None
    return found(
        f"global_tokens {plan.batch.global_tokens} is no multiple of seq x micro_batch x data-parallel devices"
        f" = {rows}",
        "batch.global_tokens",
        "batch.seq",
        "parallel.world",
        hint="it counts tokens of a step over all devices: the batch in sequences times seq",
    )


MESH = (
    Rule(
        "dense groups",
        "`world` that is no multiple of pp x tp x cp",
        f"{ARGUMENTS}; torchtitan distributed/parallel_dims.py, _validate",
        _dense_groups,
    ),
    Rule(
        "expert groups",
        "`world` that is no multiple of pp x ep x etp",
        "Megatron-LM core/parallel_state.py, initialize_model_parallel",
        _expert_groups,
    ),
    Rule(
        "micro-batches",
        "`global_tokens` that is no multiple of seq x micro_batch x data-parallel devices",
        "Megatron-LM core/num_microbatches_calculator.py; DeepSpeed runtime/config.py, _batch_assertion",
        _whole_micro_batches,
    ),
)
"""What every other rule relies on."""


def _sp_alone(case: Case) -> Found | None:
    p = case.plan.parallel
    if not p.sp or p.tp > 1:
        return None
    message = "sp needs tp above 1: it divides rows over the tensor-parallel devices"
    return found(message, "parallel.sp", "parallel.tp")


def _sequence(case: Case) -> Found | None:
    """Rows of a device: a ring hands out 2 cp pieces, so that causal work is even; sp divides further."""
    p, seq = case.plan.parallel, case.plan.batch.seq
    if p.cp_comm == "p2p" and (odd := _pieces(case)) is not None:
        return odd
    if seq % (p.cp * (p.tp if p.sp else 1)):
        message = f"seq {seq} does not divide over cp {p.cp} and sequence-parallel devices"
        return found(message, "batch.seq", "parallel.cp", value=seq)
    return None


def _pieces(case: Case) -> Found | None:
    p, seq = case.plan.parallel, case.plan.batch.seq
    if p.cp == 1 or seq % (2 * p.cp) == 0:
        return None
    return found(
        f"seq {seq} is no multiple of 2 x cp = {2 * p.cp}: each device gets two pieces of a sequence, one from either"
        " end",
        "batch.seq",
        "parallel.cp",
        value=seq,
    )


def _megatron_sequence(case: Case) -> Found | None:
    """All-to-all attention needs no pieces, but gets them all the same."""
    return _pieces(case) if case.plan.parallel.cp_comm == "a2a" else None


def _torchtitan_sequence(case: Case) -> Found | None:
    p, seq = case.plan.parallel, case.plan.batch.seq
    pieces = (p.tp if p.sp else 1) * (2 * p.cp if p.cp > 1 else 1)
    if seq % pieces == 0:
        return None
    message = f"seq {seq} is no multiple of the {pieces} pieces that tp under sp and twice cp divide it into"
    return found(message, "batch.seq", "parallel.tp", "parallel.cp", value=seq)


def _pictures(case: Case) -> Found | None:
    batch = case.plan.batch
    tokens = sum(each.tokens_per_sequence or 0 for _, each in batch.pictures)
    if tokens <= batch.seq:
        return None
    keys = dict.fromkeys(f"batch.{name}" for name, each in batch.pictures if each.tokens_per_sequence)
    message = f"{tokens} vision tokens do not fit into sequences of {batch.seq}: seq counts text and vision"
    return found(message, *keys, "batch.seq")


def _sizes(case: Case) -> Found | None:
    """The first size that the devices can't divide; key-value heads may be replicated too."""
    shards = mesh_of(case.plan, case.stack)
    for d in case.facts.dims:
        error = uneven(d, shards)
        if error is not None:
            option, parts = shards.way(d.axis)
            return found(error.message, f"parallel.{option}", hint=error.hint, value=parts)
    return None


DIVIDING = (
    Rule(
        "sp without tp",
        "`sp` where tp is 1",
        "Megatron-LM core/model_parallel_config.py, __post_init__",
        _sp_alone,
    ),
    Rule(
        "sequence pieces",
        "`seq` that is no multiple of 2 x cp (of cp with `cp_comm: a2a`), or of cp x tp under sp",
        f"{ARGUMENTS}; torch distributed/tensor/experimental/_context_parallel/_load_balancer.py,"
        " _HeadTailLoadBalancer; Megatron-LM core/tensor_parallel/mappings.py, _split_along_first_dim",
        _sequence,
    ),
    Rule(
        "sequence pieces, a2a",
        "`seq` that is no multiple of 2 x cp with `cp_comm: a2a`",
        ARGUMENTS,
        _megatron_sequence,
        ("megatron",),
    ),
    Rule(
        "sequence pieces, tp",
        "`seq` that is no multiple of 2 x cp, times tp under sp, where cp is above 1",
        "torchtitan trainer.py, Trainer.__init__; up to 0.2 distributed/parallel_dims.py, seq_len_divisor",
        _torchtitan_sequence,
        ("torchtitan",),
    ),
    Rule(
        "vision tokens",
        "Images and videos with more tokens than `seq`",
        "Sequences hold text and vision",
        _pictures,
    ),
    Rule(
        "sizes",
        "Heads, widths or experts that tp, ep or etp do not divide; key-value heads may also divide tp",
        f"{CONFIG}; {ARGUMENTS}",
        _sizes,
        model=True,
    ),
)
