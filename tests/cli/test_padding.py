"""A vocabulary that the devices do not divide is padded as engines and Megatron-LM pad it, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import TINY, answered, written

GQA = TINY["backbone"]["attention"]["gqa"] | {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 80}
DENSE = TINY["backbone"]["ffn"]["dense"] | {"intermediate_size": 10_240, "gated": False}
"""A dense model of 3 layers: the sizes of granite-3b but for the depth (vllm-project/vllm#20843)."""


@pytest.fixture
def odd(tmp_path: Path) -> str:
    backbone = TINY["backbone"] | {
        "hidden_size": 2560,
        "vocab_size": 49_159,
        "max_position_embeddings": 8192,
        "layers": [{"count": 3, "attention": "gqa", "ffn": "dense"}],
        "attention": {"gqa": GQA},
        "ffn": {"dense": DENSE},
    }
    return written(tmp_path, TINY | {"backbone": backbone})


@pytest.mark.parametrize(("tp", "rows"), [(1, 49_159), (2, 49_216 // 2), (4, 49_216 // 4)])
def test_an_engine_pads_the_vocabulary_to_a_multiple_of_64(odd: str, tp: int, rows: int) -> None:
    found = answered("serve", odd, "--gpu", "h100", "--gpus", str(tp), "--context", "1k")
    layer = (4 * 2560 * 2560 + 2 * 2560 * 10_240) // tp + 2 * 2560
    assert found["quantities"]["serve.weights_bytes"] == 2 * (2 * rows * 2560 + 3 * layer + 2560)
    said = [note for note in found["notes"] if "padded" in note]
    more = "vocab_size 49,159 does not divide: it is padded to 49,216 rows (vLLM and SGLang pad to multiples of 64)."
    assert said == ([] if tp == 1 else [more])


@pytest.mark.parametrize(("tp", "rows"), [(1, 49_159), (2, 49_408 // 2), (4, 49_664 // 4)])
def test_megatron_pads_it_to_a_multiple_of_128_times_tp(odd: str, tp: int, rows: int) -> None:
    # 193 x 256 = 49,408 and 97 x 512 = 49,664
    sets = [f"parallel.{name}={n}" for name, n in (("world", tp), ("pp", 1), ("vpp", 1), ("ep", 1), ("tp", tp))]
    sets += ["schedule.kind=1f1b", "schedule.extra_warmup=0", "batch.global_tokens=4096"]
    found = answered("train", odd, "--plan", "k2-pretrain", *(word for each in sets for word in ("--set", each)))
    layer = (4 * 2560 * 2560 + 2 * 2560 * 10_240) // tp + 2 * 2560
    assert found["quantities"]["train.params_bytes"] == 2 * (2 * rows * 2560 + 3 * layer + 2560)
    assert any("Megatron-LM pads to multiples of 128 x tp" in note for note in found["notes"]) == (tp > 1)


def test_the_parameters_of_the_model_are_not_padded(odd: str) -> None:
    counted = answered("params", odd)["quantities"]["params.total"]
    assert counted == 2 * 49_159 * 2560 + 3 * (4 * 2560 * 2560 + 2 * 2560 * 10_240 + 2 * 2560) + 2560


TRAIN = ("parallel.ep=1", "parallel.tp=2", "parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b")
SETS = tuple(word for each in (*TRAIN, "schedule.extra_warmup=0") for word in ("--set", each))


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (("serve",), ("--gpu", "all", "--gpus", "2")),
        (("plot", "memory"), ("--gpus", "2", "--tp", "2", "--context", "1k..4k")),
        (("plot", "train"), ("--plan", "k2-pretrain", *SETS)),
        (("plot", "memory"), ("--plan", "k2-pretrain", "--context", "1k..4k", *SETS)),
    ],
    ids=["serve on every GPU", "plot of serving", "plot of ranks", "plot of lengths"],
)
def test_every_answer_that_rests_on_padding_says_so(odd: str, command: tuple[str, ...], flags: tuple[str, ...]) -> None:
    notes = answered(*command, odd, *flags)["notes"]
    assert len([note for note in notes if "vocab_size 49,159 does not divide" in note]) == 1
