"""FLOPs of sequences of several lengths packed into one row: public formulas, sums by hand, sums of single runs."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.calc.flops import Flops, flop_rows, totals
from archcalc.documents.flops import flops, flops_quantities
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.workload import Workload
from tests.support import answered, run, spec_of, tiny

LENGTHS = (512, 1024, 2048)
TOKENS, SQUARES = 3584, 512**2 + 1024**2 + 2048**2


def of(loaded: Spec, **workload: Any) -> Flops:
    return totals(flop_rows(loaded.trace(Workload(**workload))))


def test_a_packed_training_step_is_what_verl_counts_without_the_lookup() -> None:
    # Qwen3-30B-A3B, a token: 48 layers of q and o 2048·4096 each, k and v 2048·512 each, router 2048·128, 8 experts of
    # 3·2048·768; head 151936·2048. Six FLOPs a weight, and of the scores 6·Σs²·layers·heads·head_dim: forward
    # 2·2·s²/2 under causal halves, backward twice that. verl's utils/flops_counter.py has 78,593,069,678,592 for these
    # lengths: it multiplies with the input embedding too, 6·151936·2048·3584 more
    layer = 2 * 2048 * 4096 + 2 * 2048 * 512 + 2048 * 128 + 8 * 3 * 2048 * 768
    weights = 48 * layer + 151_936 * 2048
    found = of(load_spec("qwen3-30b-a3b"), phase="train", lengths=LENGTHS)
    assert found.total == 6 * weights * TOKENS + 6 * SQUARES * 48 * 32 * 128
    assert found.total == 78_593_069_678_592 - 6 * 151_936 * 2048 * TOKENS == 71_901_779_066_880
    # Σs², and not (Σs)² (NVIDIA-NeMo/Megatron-Bridge#3839), which would be 6·48·32·128·7,340,032 more
    assert of(load_spec("qwen3-30b-a3b"), phase="train", seq=TOKENS).total == 80_560_433_135_616


def test_a_window_ends_with_its_sequence() -> None:
    # three layers of 4 heads of 3 + 3 features, windows of 4. Three tokens stay inside it: twice 3²/2 pairs; of six the
    # first four make 4²/2 and the others see 4 each: twice 16
    attention = tiny()["backbone"]["attention"]["gqa"] | {"sliding_window": 4}
    found = of(spec_of(tiny(attention={"gqa": attention})), lengths=(3, 6))
    assert found.attention_core == 3 * (9 + 32) * 4 * (3 + 3)


def test_the_head_runs_once_a_sequence_over_last_tokens() -> None:
    everywhere, last = (of(spec_of(tiny()), lengths=(3, 6, 6), logits=logits) for logits in ("all", "last"))
    assert everywhere.forward - last.forward == 2 * (15 - 3) * 8 * 32  # hidden · vocabulary


EACH: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {}),
    ("gemma-3-27b", {}),  # windows beside all tokens
    ("gemma-3-27b", {"attention": "full", "context": 1500}),
    ("qwen3-coder-next", {"context": 40}),  # states and short convolutions
    ("kimi-linear-48b", {"phase": "train"}),
    ("deepseek-v3.2", {}),  # index scores, the best keys
    ("deepseek-v3", {"logits": "last"}),  # prediction modules
    ("kimi-k2", {"context": 300}),  # latents of cached tokens are expanded for each sequence
    ("kimi-k2", {"context": 300, "choices": (("mla", "absorbed"),)}),
    ("k25", {"images": ((224, 224), (40, 57))}),
    ("qwen3-vl-235b", {"phase": "train", "videos": ((4, 224, 224),)}),
]


@pytest.mark.parametrize(("name", "how"), EACH, ids=[" ".join((name, *how)) for name, how in EACH])
def test_a_pack_is_the_sum_of_its_sequences(name: str, how: dict[str, Any]) -> None:
    model, lengths = load_spec(name), (5, 3000, 5, 1027)
    alone: list[tuple[int, ...]] = [astuple(of(model, seq=n, **how)) for n in lengths]
    assert astuple(of(model, lengths=lengths, **how)) == tuple(sum(each) for each in zip(*alone, strict=True))


@given(n=st.integers(1, 300), count=st.integers(1, 9), context=st.integers(0, 100))
def test_a_pack_of_equal_sequences_is_a_batch(n: int, count: int, context: int) -> None:
    model = spec_of(tiny(num_nextn_predict_layers=1))
    assert of(model, lengths=(n,) * count, context=context) == of(model, batch=count, seq=n, context=context)


def test_flops_of_a_token_are_over_all_tokens_of_the_pack() -> None:
    model, image = load_spec("k25"), (224, 224)  # 16 x 16 patches, 64 tokens
    found = flops_quantities(model, Workload(lengths=LENGTHS, images=(image,)))
    assert (found["vision.tokens"], found["vision.patches"]) == (3 * 64, 3 * 256)  # an image of each sequence
    assert found["flops.per_token"] == pytest.approx(found["flops.forward"] / (TOKENS + 3 * 64), rel=1e-15)


def test_a_run_scales_the_packed_step() -> None:
    found = flops(load_spec("qwen3-30b-a3b"), phase="train", lengths=LENGTHS, tokens=35_840_000).quantities
    assert found["flops.run_total"] == 71_901_779_066_880 * 10_000


# ------------------------------------------------------------------------------------------------- the command line


def test_a_pack_on_the_command_line() -> None:
    found = answered("flops", "llama-3.1-8b", "--lengths", "512, 1k,4096x3", "--phase", "train")
    assert found["inputs"]["lengths"] == [512, 1024, 4096, 4096, 4096]
    assert (found["inputs"]["batch"], found["inputs"]["seq"]) == (1, None)
    assert "5 packed sequences, 13,824 text tokens" in found["title"]
    assert any("each on its own" in line for line in found["conventions"])
    cores = [row for row in found["rows"] if row["counts_as"] == "attention"]
    assert {row["formula"] for row in cores} == {" + ".join(["2·pairs·num_attention_heads·head_dim"] * 2)}
    assert answered("flops", "llama-3.1-8b", "--seq", "8")["inputs"]["lengths"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "a length must be at least 1, not 0"),
        ("512,0", "a length must be at least 1, not 0"),
        ("a,b", '"a" is not a number of tokens'),
        ("512,", '"512," is no list of lengths'),
        ("", '"" is no list of lengths'),
        ("1024x0", '"1024x0" is no list of lengths'),
        ("1024x", '"1024x" is no list of lengths'),
        ("2x3x4", '"2x3x4" is no list of lengths'),
        ("512.5", '"512.5" is not a whole number'),
        ("-5", "can't be negative"),
        ("131,072", '"072" is no length'),
        ("1x1000000", "the limit `lengths` is 10,000"),
        (",".join(["1"] * 10_001), "the limit `lengths` is 10,000"),
        ("1x99999999999999999999", "the limit `lengths` is 10,000"),
    ],
)
def test_lengths_that_are_none_are_refused_with_a_hint(text: str, said: str) -> None:
    ran = run("flops", "llama-3.1-8b", "--lengths", text)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "hint: " in ran.err
    assert len(ran.err) < 600


@pytest.mark.parametrize("flag", [("--seq", "512"), ("--seq", "1"), ("--batch", "2")], ids=" ".join)
def test_lengths_stand_in_place_of_batch_and_seq(flag: tuple[str, str]) -> None:
    ran = run("flops", "llama-3.1-8b", "--lengths", "512,1024", *flag)
    assert (ran.code, ran.out) == (2, "")
    assert "hint: leave out --seq and --batch, or --lengths" in ran.err


def test_a_decode_step_has_no_lengths() -> None:
    with pytest.raises(InputError, match="decode runs one new token a sequence: there are no lengths") as error:
        flops(load_spec("llama-3.1-8b"), phase="decode", lengths=(1, 1))
    assert "--context" in (error.value.hint or "")


def test_a_sequence_of_the_pack_that_is_too_long_is_named() -> None:
    notes = flops(load_spec("qwen3-30b-a3b"), lengths=(40_961, 7)).notes
    assert any("40,961 tokens are more than max_position_embeddings" in note for note in notes)
    assert not any("max_position" in note for note in flops(load_spec("qwen3-30b-a3b"), lengths=(40_960,) * 2).notes)
