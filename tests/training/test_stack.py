"""Stacks: what a training framework does whatever a plan says, and what of it the plan may say itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archcalc.calc.sharding import padded
from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir, bundled_names, validate
from archcalc.files.yaml_loader import load
from archcalc.hardware import load_hardware
from archcalc.tape.dims import Dim
from archcalc.training.mesh import mesh_of
from archcalc.training.placement import stage_layers
from archcalc.training.run import mask_of
from archcalc.training.stack import PLANNED, Stack, load_stack, settled, stack_lines
from tests.training.plans import k2_plan, ranks

MIB = 1 << 20
BARE = ("activations.recompute=[]", "activations.fp8=[]", "activations.offload=none")
KEPT = (BARE[2], "activations.recompute=[layernorm]")  # Megatron-LM offloads and makes again what it has names for
NEW, OLD, FSDP2 = "megatron-core-0.14+te-2.11", "megatron-2025", "torch-fsdp2"


def data(name: str) -> dict[str, Any]:
    path = bundled_dir() / "stacks" / f"{name}.yaml"
    return load(path.read_bytes(), path.name).data


def test_an_architecture_that_there_is_not_is_refused(tmp_path: Path) -> None:
    text = (bundled_dir() / "stacks" / f"{OLD}.yaml").read_text()
    path = tmp_path / "stack.yaml"
    path.write_text(text.replace("hopper: 32MiB", "hoper: 32MiB", 1))
    with pytest.raises(SpecError, match="unknown key `hoper`"):
        load_stack(str(path))


def test_the_bundled_stacks() -> None:
    assert bundled_names("stacks") == sorted([NEW, OLD, FSDP2])
    assert [load_stack(name).name for name in (NEW, OLD, FSDP2)] == [NEW, OLD, FSDP2]


def test_every_fact_needs_a_source() -> None:
    content = data(OLD)
    del content["sources"]["layers"]
    with pytest.raises(SpecError, match="layers has no source of its name"):
        validate(content, load(b"kind: stack", "x.yaml"), Stack)


def test_an_unknown_stack_is_refused_with_the_near_miss() -> None:
    with pytest.raises(InputError, match="megatron-2205") as found:
        settled(k2_plan("stack=megatron-2205"))
    assert found.value.hint == "did you mean megatron-2025?"


def test_without_a_stack_nothing_is_filled_in() -> None:
    plan = k2_plan()
    assert settled(plan) == (plan, None)
    assert mesh_of(plan).vocab_always is False
    assert all(r.workspaces == 0 for r in ranks("kimi-k2"))


def test_a_stack_fills_in_what_the_plan_leaves_out() -> None:
    plan, stack = settled(k2_plan(f"stack={OLD}"))
    assert stack is not None
    assert plan.memory.placeholder_grads is False
    assert plan.activations.attention_mask == "loader"
    own, _ = settled(k2_plan(f"stack={OLD}", "memory.placeholder_grads=true", "activations.attention_mask=none"))
    assert (own.memory.placeholder_grads, own.activations.attention_mask) == (True, "none")


def test_what_both_say_is_stated() -> None:
    plan = k2_plan(f"stack={OLD}", "memory.placeholder_grads=true")
    lines = stack_lines(plan, load_stack(OLD), load_hardware("h800"))
    assert "memory.placeholder_grads = true (the plan says so; its stack says false)" in lines
    assert any(line.startswith("activations.attention_mask = loader (stack: Megatron-LM") for line in lines)
    assert len(lines) == 1 + len(PLANNED) + 2 - (plan.parallel.layout != "auto") + 3


def test_a_workspace_is_said_to_be_that_of_the_device() -> None:
    h800 = load_hardware("h800")
    unnamed = h800.model_copy(update={"architecture": None})
    where = [stack_lines(k2_plan(), load_stack(OLD), each)[-1].partition(" MiB on ")[2] for each in (h800, unnamed)]
    assert [text.partition(", on ranks")[0] for text in where] == ["hopper", "h800, whose file names no architecture"]


@pytest.mark.parametrize(
    ("gpu", "torch", "engine"),
    [
        # 2 threads of 32 MiB on compute capability 9.0, else of 2·4096 + 8·16 KiB; TransformerEngine's 32 from 9.0 on
        ("h100", 64 * MIB, 32 * MIB),
        ("b200", 2 * (2 * 4096 + 8 * 16) * 1024, 32 * MIB),
        ("a100", 2 * (2 * 4096 + 8 * 16) * 1024, 4 * MIB),
    ],
)
def test_workspaces_follow_the_architecture(gpu: str, torch: int, engine: int) -> None:
    """Grouped GEMMs run on 4 streams, each with a workspace of the same size."""
    hardware, stack = load_hardware(gpu), load_stack(OLD)
    assert stack.workspace_bytes(hardware, frozenset({"torch"})) == torch
    assert stack.workspace_bytes(hardware, frozenset({"fused"})) == engine
    assert stack.workspace_bytes(hardware, frozenset({"torch", "fused", "experts"})) == torch + 5 * engine


def test_a_rank_has_the_workspaces_of_what_it_runs() -> None:
    """Llama's middle stages multiply with TransformerEngine alone; the head's product is torch's."""
    dense = ranks("llama-3.1-70b", *BARE, f"stack={OLD}", "parallel.ep=1")
    assert [r.workspaces for r in (dense[0], dense[1], dense[-1])] == [32 * MIB, 32 * MIB, 96 * MIB]
    unfused = ranks("llama-3.1-70b", *BARE, f"stack={OLD}", "parallel.ep=1", "activations.core=unfused")
    assert {r.workspaces for r in unfused} == {96 * MIB}  # scores are torch's products
    assert {r.workspaces for r in ranks("kimi-k2", *KEPT, f"stack={OLD}")} == {224 * MIB}  # routers, 1 + 4
    eager = ranks("kimi-k2", *BARE, f"stack={FSDP2}", "activations.kernels=eager", "activations.router_probs=out")
    assert {r.workspaces for r in eager} == {64 * MIB}


def test_a_head_that_shares_the_embeddings_weight_is_a_product_of_torchs_too() -> None:
    one = ("parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0", "parallel.layout=auto")
    assert ranks("gemma-3-27b", *BARE, *one, f"stack={OLD}", "parallel.ep=1")[0].workspaces == 96 * MIB


def test_workspaces_are_added_to_what_the_plan_says_is_fixed() -> None:
    same = (*KEPT, "memory.placeholder_grads=true", "activations.attention_mask=none", "memory.allocator_efficiency=1")
    without, with_it = ranks("kimi-k2", *same), ranks("kimi-k2", *same, f"stack={OLD}")
    assert [b.total - a.total for a, b in zip(without, with_it, strict=True)] == [224 * MIB] * 16


def test_a_vocabulary_is_padded_whether_it_divides_or_not() -> None:
    """Megatron-LM pads to 128·tp: 32,000 rows over 2 devices become 32,000 = 125·256; Llama 3.1's 128,256 = 501·256;
    Qwen3's 151,936 = 593.5·256 becomes 594·256 = 152,064. torch hands out uneven rows."""
    for name, words, rows in ((OLD, 151_936, 152_064), (FSDP2, 151_936, 151_936), (FSDP2, 151_937, 151_938)):
        plan = k2_plan(f"stack={name}", "parallel.tp=2", "parallel.sp=true", "parallel.world=512", *BARE)
        assert padded(Dim("V", words, "vocab"), mesh_of(plan, load_stack(name))) == rows


@pytest.mark.parametrize(
    ("layers", "slots", "expected"),
    [
        (32, 8, [4, 5, 4, 4, 4, 4, 4, 3]),  # 34 in all: 4 each, two of 5; less embedding and head
        (4, 2, [2, 2]),
        (3, 2, [2, 1]),
        (8, 1, [8]),
    ],
)
def test_torchtitans_layout_counts_embedding_and_head(layers: int, slots: int, expected: list[int]) -> None:
    assert stage_layers(layers, slots, "weighted") == expected


def test_the_loaders_mask_is_there_while_the_ends_run_forward() -> None:
    """4096·4096 bytes; the head's forward is where the last rank's fused loss is made, so its peak grows by that."""
    assert mask_of(k2_plan("activations.attention_mask=loader")) == 4096 * 4096
    assert mask_of(k2_plan("activations.attention_mask=loader", "parallel.cp=2", "batch.micro_batch=2")) == 4096 * 4096
    plain, masked = (ranks("kimi-k2", *BARE, *more) for more in ((), ("activations.attention_mask=loader",)))
    grown = [
        [b.forward - a.forward for a, b in zip(one.chunk_memory, other.chunk_memory, strict=True)]
        for one, other in zip(plain, masked, strict=True)
    ]
    size = 4096 * 4096
    assert grown == [[size, 0], *[[0, 0]] * 14, [0, size]]
    assert all(a.chunk_memory[0].saved == b.chunk_memory[0].saved for a, b in zip(plain, masked, strict=True))


def test_a_recomputed_layer_keeps_the_mask_that_it_was_called_with() -> None:
    full = ("activations.recompute=[full]", "activations.fp8=[]", "activations.offload=none", "schedule.extra_warmup=0")
    plain, masked = (ranks("kimi-k2", *full, *more)[0] for more in ((), ("activations.attention_mask=loader",)))
    grown = [b.saved - a.saved for a, b in zip(plain.chunk_memory, masked.chunk_memory, strict=True)]
    assert grown == [4096 * 4096, 0]


def test_a_mask_that_a_layer_keeps_stands_there_once() -> None:
    """One stage: the head runs forward when the first layer keeps the mask: 4096·4096 bytes in all, not twice."""
    one = ("parallel.pp=1", "parallel.vpp=1", "parallel.ep=1", "schedule.kind=1f1b", "schedule.extra_warmup=0")
    full = (*one, "activations.recompute=[full]", *BARE[1:])
    (plain,), (masked,) = (
        ranks("llama-3.1-8b", *full, *more)[0].chunk_memory for more in ((), ("activations.attention_mask=loader",))
    )
    assert masked.forward_at == "lm_head"
    assert (masked.saved - plain.saved, masked.forward - plain.forward) == (4096 * 4096, 0)
