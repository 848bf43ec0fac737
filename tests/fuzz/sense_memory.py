"""Laws of serving and training memory: what a larger GPU, a longer context, more recomputation can't do."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzz.asking import drawn, report
from tests.fuzz.documents import document, names
from tests.fuzz.sense import Law

GPU: dict[str, Any] = document("hardware", "h100")


def more_memory_fits_still(rng: Random) -> str | None:
    """What fits a GPU fits a larger one: the engine's share of its memory grows, and what it holds stays.

    vLLM takes utilization x memory and subtracts weights and overhead, none of which grows with the memory.
    """
    spec = drawn(rng)
    flags = ("--engine", rng.choice(names("engine")), *_requests(rng)[1])
    less = _barely(rng, spec, *flags)
    more = less + rng.choice((1, 1 << 20, 1 << 30, 1 << 37))
    small, large = (_served(spec, memory, *flags) for memory in (less, more))
    if small and large and small["serve.fits"] and not large["serve.fits"]:
        return f"fits {less} bytes and not {more}: {' '.join(flags)}"
    if small and large and large["serve.kv_budget_bytes"] < small["serve.kv_budget_bytes"]:
        return f"{less} bytes leave {small['serve.kv_budget_bytes']}, {more} {large['serve.kv_budget_bytes']}"
    return None


def more_requests_need_no_less(rng: Random) -> str | None:
    """A longer context or another sequence: no less cache, and what did not fit does not fit now."""
    spec, (sizes, flags) = drawn(rng), _requests(rng)
    context, batch = sizes
    larger = rng.choice(((context + rng.randrange(1, 100), batch), (context, batch + rng.randrange(1, 9))))
    memory = _barely(rng, spec, *flags)
    less, more = (_served(spec, memory, *_flags(*asked)) for asked in (sizes, larger))
    if less and more and more["serve.kv_bytes"] < less["serve.kv_bytes"]:
        return f"{less['serve.kv_bytes']} bytes at {sizes}, {more['serve.kv_bytes']} at {larger}"
    if less and more and more["serve.fits"] and not less["serve.fits"]:
        return f"{sizes} does not fit {memory} bytes, and {larger} does"
    return None


def _requests(rng: Random) -> tuple[tuple[int, int], tuple[str, ...]]:
    """A context and a batch, and the flags that ask for them."""
    sizes = rng.randrange(1, 400), rng.randrange(1, 20)
    return sizes, _flags(*sizes)


def _flags(context: int, batch: int) -> tuple[str, ...]:
    """Steps of one size and one GPU whatever the requests, so that these change the cache alone."""
    return (
        "--tp",
        "1",
        "--context",
        str(context),
        "--batch",
        str(batch),
        "--max-num-seqs",
        "64",
        "--batched-tokens",
        "1k",
    )


def _barely(rng: Random, spec: dict[str, Any], *flags: str) -> int:
    """Memory that the requests just fit, or just don't [bytes]."""
    found = _served(spec, GPU["memory_visible_bytes"], *flags)
    if found is None:
        return rng.randrange(1, 1 << 37)
    needed = int(GPU["memory_visible_bytes"] - found["serve.margin_bytes"] / 0.9)  # of which 90 % are used
    near = abs(found["serve.kv_bytes"]) + 2
    return max(1, needed + rng.randrange(-near, near))


def _served(spec: dict[str, Any], memory: int, *flags: str) -> dict[str, Any] | None:
    gpu = {**GPU, "memory_bytes": memory, "memory_visible_bytes": memory}
    words = ("serve", "s.yaml", "--gpu", "g.yaml", "--utilization", "0.9", *flags)
    found = report({"s.yaml": spec, "g.yaml": gpu}, *words)
    return None if found is None else dict(found["quantities"])


RECOMPUTED = ("layernorm", "swiglu", "mla_up_proj", "moe_down_proj", "mlp", "moe", "shared_experts")
"""Without `core_attn`: values are a view of the projections' one tensor, all of which its checkpoint keeps, so that it
may keep more (tests/reference/saved/test_saved_gqa.py)."""


def recomputation_keeps_no_more(rng: Random) -> str | None:
    """What is made again in backward is not kept: one more module of a layer never keeps more between the passes.

    A module that is checkpointed keeps its input, and without that its first operation keeps the same tensor, or its
    normed or projected form. Whole layers (`full`) keep one input each. Peaks may rise, as the second forward has its
    own moment; `activation_bytes` of the plan without offload is what is kept.
    """
    spec = drawn(rng)
    fewer = rng.sample(RECOMPUTED, rng.randrange(3))
    more = rng.choice(([*fewer, rng.choice([name for name in RECOMPUTED if name not in fewer])], ["full"]))
    less, kept = (
        _trained(spec, {"recompute": names, "kernels": kernels}) for kernels in ("fused",) for names in (more, fewer)
    )
    if less and kept and less["train.activation_bytes"] > kept["train.activation_bytes"]:
        return f"{fewer} keeps {kept['train.activation_bytes']}, {more} {less['train.activation_bytes']}"
    return None


def more_tokens_keep_no_less(rng: Random) -> str | None:
    """A longer sequence or a larger micro-batch: no less is kept of its activations."""
    spec, seq, times = drawn(rng), 8 * rng.randrange(1, 32), rng.choice((2, 3, 4))
    sizes: list[dict[str, Any]] = [
        {"seq": seq, "micro_batch": 1},
        {"seq": seq * times, "micro_batch": 1},
        {"seq": seq, "micro_batch": times},
    ]
    base, *grown = (_trained(spec, {"recompute": []}, {**size, "global_tokens": seq * times * 4}) for size in sizes)
    for found in grown:
        if base and found and found["train.activation_bytes"] < base["train.activation_bytes"]:
            return (
                f"seq {seq}: {base['train.activation_bytes']}, {times} times as much: {found['train.activation_bytes']}"
            )
    return None


def more_replicas_hold_no_more(rng: Random) -> str | None:
    """Twice the data-parallel devices under ZeRO: no GPU holds more of the optimizer, gradients and weights.

    Each of them holds its share of what the group divides, rounded up, and all of what it does not divide.
    """
    spec, zero = drawn(rng), rng.choice((0, 1, 2, 3))
    plans = [{"world": world, "pp": 1, "ep": 1, "zero": zero} for world in (2, 4)]
    few, many = (_trained(spec, {"recompute": []}, parallel=plan) for plan in plans)
    for name in ("train.optimizer_bytes", "train.grads_bytes", "train.params_bytes"):
        if few and many and many[name] > few[name]:
            return f"zero {zero}: {name} {few[name]} on 2 devices, {many[name]} on 4"
    return None


def _trained(
    spec: dict[str, Any],
    activations: dict[str, Any],
    batch: dict[str, Any] | None = None,
    parallel: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Quantities under a plan of one device, but for these keys of it."""
    plan = document("plan", "one")
    plan["activations"].update(activations)
    plan["batch"].update(batch or {})
    plan["parallel"].update(parallel or {})
    found = report({"s.yaml": spec, "p.yaml": plan}, "train", "s.yaml", "--plan", "p.yaml")
    return None if found is None else dict(found["quantities"])


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        more_memory_fits_still,
        more_requests_need_no_less,
        recomputation_keeps_no_more,
        more_tokens_keep_no_less,
        more_replicas_hold_no_more,
    )
}
"""By name."""
