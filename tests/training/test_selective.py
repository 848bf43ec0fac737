"""Checkpointing by operation: by hand at Llama 3.1 8B's sizes, and beside torch's own on a small layer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from archcalc.calc.activations import Savers, saved_bytes, saved_rows
from archcalc.calc.selective import KINDS, TORCHTITAN, leftover
from archcalc.calc.sharding import Shards
from archcalc.errors import InputError, SpecError
from archcalc.tape import Segment, Tape
from archcalc.training.chunk import segment_memory
from archcalc.training.ledger import ledger
from archcalc.training.savers import savers
from archcalc.workload import Workload
from tests.support import spec_of, tiny
from tests.training.plans import k2_plan, run_of, traced
from tests.training.test_small_models import ONE_DEVICE

T, H, F, Q, KV, HEADS = 2 * 8192, 4096, 14_336, 32 * 128, 8 * 128, 32


def how(*kinds: str, kernels: str = "eager", core: str = "flash") -> Savers:
    return savers(kernels=kernels, core=core, router_probs="out", cross_entropy="eager", selective=kinds)


def layer(name: str = "llama-3.1-8b", batch: int = 2, seq: int = 8192) -> Segment:
    return next(s for s in traced(name, batch, seq).segments if s.indices)


# ------------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("kinds", "features"),
    [
        ((), 0),
        (("mm",), Q + 2 * KV + H + 2 * F + H),  # q k v o gate up down
        (("every_other_mm",), Q + KV + F + H),  # q v gate down: the first, third, fifth and seventh
        (("mm", "every_other_mm"), Q + 2 * KV + H + 2 * F + H),
        (("attention",), Q + 2 * HEADS),  # its output, and log-sum-exp in fp32
        (TORCHTITAN, Q + KV + F + H + Q + 2 * HEADS),
        (("grouped_mm", "all_to_all"), 0),  # a dense layer has none
    ],
)
def test_what_a_layer_of_llama_keeps(kinds: tuple[str, ...], features: int) -> None:
    """Its input H and, two bytes a feature and token, what these operations put out."""
    assert saved_bytes(layer(), Shards(), how(*kinds)) == 2 * T * (H + features)


def test_torchtitans_list_keeps_a_gigabyte_a_layer() -> None:
    """H, q, attention's output and down 134,217,728 each, v 33,554,432, gate 469,762,048, log-sum-exp 4·32·T."""
    want = 4 * 134_217_728 + 33_554_432 + 469_762_048 + 2_097_152
    assert saved_bytes(layer(), Shards(), how(*TORCHTITAN)) == want == 1_042_284_544


def test_kernels_do_not_matter_to_what_is_kept_and_recomputed() -> None:
    assert saved_bytes(layer(), Shards(), how(*TORCHTITAN, kernels="fused")) == 1_042_284_544


def test_unfused_attention_is_made_of_products_that_are_no_mm() -> None:
    assert saved_bytes(layer(), Shards(), how("attention", core="unfused")) == 2 * T * H


def test_the_last_product_is_kept_and_never_asked_for() -> None:
    """Recomputation ends when gate·up, which `down` saves, is there again: H features of `down` wait for nobody."""
    chosen = how(*TORCHTITAN)
    assert leftover(layer(), Shards(), chosen.selective or frozenset(), chosen.variants) == 2 * T * H
    plain, kept = (
        segment_memory(traced("llama-3.1-8b", 2, 8192), 1, Shards(), each) for each in (how(), how(*TORCHTITAN))
    )
    assert kept.backward + kept.saved == plain.backward + plain.saved + 2 * T * H


def test_sequence_parallelism_divides_what_is_scattered_and_not_what_is_summed() -> None:
    """tp 4. Results by heads and by width are a quarter; o and down are whole before their sums are scattered."""
    shards = Shards(tp=4, sp=True)
    quarter, whole = H + Q + 2 * KV + 2 * F, 2 * H
    assert saved_bytes(layer(), shards, how("mm")) == 2 * T * quarter // 4 + 2 * T * whole
    assert saved_bytes(layer(), shards, how("reduce_scatter")) == 2 * T * (H + 2 * H) // 4
    assert saved_bytes(layer(), Shards(tp=4), how("reduce_scatter")) == 2 * T * H


def test_experts_products_and_exchanges() -> None:
    """Mixtral 8x22B: R = 2T routed rows; gate, up 16,384 and down 6,144 features a row; sent and returned ones."""
    tokens, hidden, width = 4096, 6144, 16_384
    moe = layer("mixtral-8x22b", 1, tokens)
    entry, rows = 2 * tokens * hidden, 2 * tokens
    assert saved_bytes(moe, Shards(), how("grouped_mm")) == entry + 2 * rows * (2 * width + hidden)
    assert saved_bytes(moe, Shards(ep=8), how("all_to_all")) == entry + 2 * 2 * rows * hidden
    assert saved_bytes(moe, Shards(), how("all_to_all")) == entry


def test_a_linear_with_a_bias_is_another_operation_to_torch() -> None:
    """Qwen2's q, k and v have biases; o, gate, up and down have none."""
    seq, hidden, width = 4096, 8192, 29_568
    assert saved_bytes(layer("qwen2-72b", 1, seq), Shards(), how("mm")) == 2 * seq * (hidden + 2 * hidden + 2 * width)


def test_ends_of_the_model_keep_what_they_keep() -> None:
    for segment in traced("llama-3.1-8b", 2, 8192).segments:
        if not segment.indices:
            bare = savers(kernels="eager", router_probs="out", cross_entropy="eager")
            assert saved_rows(segment, Shards(), how("mm")) == saved_rows(segment, Shards(), bare)


# --------------------------------------------------------------------------------------------------------- in plans


def test_a_plan_names_kinds_of_operations_and_nothing_else_to_recompute() -> None:
    with pytest.raises(SpecError, match="selective recomputes all of a layer but what it names"):
        k2_plan("activations.selective=[mm]")
    with pytest.raises((InputError, SpecError), match="unknown kind of operation matmul"):
        k2_plan("activations.selective=[matmul]", "activations.recompute=[]")
    with pytest.raises(SpecError, match="mm stands twice"):
        k2_plan("activations.selective=[mm, mm]", "activations.recompute=[]")


def test_an_empty_list_is_full_recomputation() -> None:
    full = k2_plan(*ONE_DEVICE, "activations.recompute=[full]")
    empty = k2_plan(*ONE_DEVICE, "activations.selective=[]")
    assert full.activations.levers()[-1].savers.whole
    rows = [ledger(run_of("llama-3.1-8b", plan))[-1] for plan in (full, empty)]
    assert [row["lever"] for row in rows] == ["recompute full", "selective"]
    for key in ("peak_bytes", "activation_bytes", "transient_bytes", "cost"):
        assert rows[0][key] == rows[1][key]


def test_recomputing_every_other_product_costs_its_share_of_the_flops() -> None:
    """Of a layer's forward at one sequence of 64: k, o and up again; q, v, gate, down and attention not."""
    plan = k2_plan(*ONE_DEVICE, "activations.selective=[every_other_mm, attention]", "parallel.layout=auto")
    again, rest = 2 * H * (KV + H + F), 2 * H * (Q + KV + F + F)
    core, head = 2 * 2 * Q * 64 / 2, 2 * H * 128_256
    cost = ledger(run_of("llama-3.1-8b", plan))[-1]["cost"]
    share = 32 * again / (32 * (again + rest + core) + head)
    assert cost == f"{100 * share:.1f} % more forward FLOPs"


# -------------------------------------------------------------------------------------------------------- the twin

SMALL: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def small_layer() -> Tape:
    content = tiny(hidden_size=64, num_hidden_layers=1, layers=[{"count": 1, "attention": "gqa", "ffn": "dense"}])
    content["backbone"]["attention"]["gqa"] |= SMALL
    content["backbone"]["ffn"] = {"dense": content["backbone"]["ffn"]["dense"] | {"intermediate_size": 96}}
    return spec_of(content).trace(Workload(phase="train", batch=2, seq=32))


@pytest.mark.twin
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")
@pytest.mark.parametrize("kinds", [(), ("mm",), ("every_other_mm",), ("attention",), TORCHTITAN, ("mm", "attention")])
def test_torch_holds_as_much_after_the_forward(kinds: tuple[str, ...]) -> None:
    """torch.utils.checkpoint with a policy by operation: bytes alive that weren't before, the input beside."""
    import torch
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    from tests.training.torch_llama import FLASH, MM, Allocated, Layer

    def contexts() -> Any:
        products = 0

        def policy(context: Any, op: Any, *args: Any, **more: Any) -> CheckpointPolicy:
            nonlocal products
            products += op == MM
            listed = (op == MM and ("mm" in kinds or ("every_other_mm" in kinds and products % 2))) or (
                op == FLASH and "attention" in kinds
            )
            return CheckpointPolicy.MUST_SAVE if listed else CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    layer = Layer(64, (4, 2, 16, 96), torch.bfloat16)
    x = torch.randn(2, 32, 64, dtype=torch.bfloat16, requires_grad=True)
    followed = Allocated()
    with followed:
        y = checkpoint(layer, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)
    owned = sum(p.untyped_storage().nbytes() for p in layer.parameters())
    held = followed.now() - owned - y.untyped_storage().nbytes()  # the input among it
    segment = next(s for s in small_layer().segments if s.indices)
    assert held == saved_bytes(segment, Shards(), how(*kinds))
    y.sum().backward()


def test_every_kind_is_told_from_facts() -> None:
    assert set(TORCHTITAN) <= set(KINDS)
