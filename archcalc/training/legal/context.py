"""Rules of context parallelism: what attention can exchange while devices hold parts of a sequence."""

from __future__ import annotations

from archcalc.training.legal.rule import CONFIG, Case, Found, Rule, found

_RING = "set parallel.cp_comm=p2p"
_TE = "TransformerEngine pytorch/attention/dot_product_attention/context_parallel.py"


def _exchanges(case: Case) -> bool:
    p = case.plan.parallel
    return p.cp > 1 and p.cp_comm == "a2a"


def _exchanged_heads(case: Case) -> Found | None:
    p = case.plan.parallel
    for d in case.facts.exchanged if _exchanges(case) else ():
        if d.size % (p.tp * p.cp):
            return _undivided(f"{d.name} {d.size} can't be divided over tp x cp = {p.tp * p.cp} devices", case)
    return None


def _exchanged_kv_heads(case: Case) -> Found | None:
    p = case.plan.parallel
    for d in case.facts.dims if _exchanges(case) else ():
        here = max(1, d.size // p.tp)
        if d.axis == "kv_heads" and here % p.cp:
            what = f"{d.name} {d.size}: {here} on a tensor-parallel device can't be divided over cp {p.cp}"
            return _undivided(what, case)
    return None


def _undivided(what: str, case: Case) -> Found:
    keys = ("parallel.cp", "parallel.cp_comm", "parallel.tp")
    return found(f"{what}, as cp_comm a2a does", *keys, hint=_RING, value=case.plan.parallel.cp)


def _no_exchange(case: Case) -> Found | None:
    if not _exchanges(case):
        return None
    message = "torchtitan hands keys and values on, and exchanges no heads: there is no cp_comm a2a"
    return found(message, "parallel.cp_comm", "parallel.cp", hint=_RING, value="a2a")


def _windows_over_a_ring(case: Case) -> Found | None:
    p = case.plan.parallel
    if p.cp == 1 or p.cp_comm != "p2p" or not case.facts.windowed:
        return None
    return found(
        "attention within a window is not supported where keys and values go around a ring, as cp_comm p2p does",
        "parallel.cp_comm",
        "parallel.cp",
        hint="set parallel.cp_comm=a2a",
        value="p2p",
    )


def _chosen_keys(case: Case) -> Found | None:
    if case.plan.parallel.cp == 1 or "index" not in case.facts.sites:
        return None
    message = "sparse attention, whose keys an indexer chooses, takes neither cp_comm p2p nor a2a"
    return found(message, "parallel.cp", "parallel.cp_comm", hint="set parallel.cp=1", value=case.plan.parallel.cp)


CONTEXT = (
    Rule(
        "heads over a2a",
        "`cp_comm: a2a` where tp x cp does not divide the heads",
        f"{_TE}, AttnFuncWithCPAndQKVOA2A",
        _exchanged_heads,
        model=True,
    ),
    Rule(
        "key-value heads over a2a",
        "`cp_comm: a2a` where cp does not divide the key-value heads of a device",
        f"{_TE}, AttnFuncWithCPAndQKVOA2A",
        _exchanged_kv_heads,
        ("megatron",),
        model=True,
    ),
    Rule(
        "no a2a",
        "`cp_comm: a2a` where cp is above 1",
        "torchtitan distributed/context_parallel/api.py, apply_cp_to_forward: all-gathers or a ring of keys and values",
        _no_exchange,
        ("torchtitan",),
    ),
    Rule(
        "windows over a ring",
        "`cp_comm: p2p` where cp is above 1 and attention has a window",
        f"{_TE}, attn_forward_func_with_cp",
        _windows_over_a_ring,
        ("megatron",),
        model=True,
    ),
    Rule(
        "sparse attention over cp",
        "Attention with an indexer where cp is above 1",
        f"{CONFIG}: DSAttention takes all-gathers alone, and up to core 0.18 no context parallelism",
        _chosen_keys,
        ("megatron",),
        model=True,
    ),
)
