"""Activations of GPT models as "Reducing Activation Recomputation in Large Transformer Models" (arXiv:2205.05198) adds
them up: figure 1 in its three ways, for the four models of its Table 3.

Written out, a layer's terms, bytes over s·b·h (section 4.1; t tensor-parallel devices):

  LayerNorms' inputs 2 + 2, inputs of the projections in 2 + 2, two masks 1 + 1: 10 on every device, over t where
  sequence parallelism divides rows
  q, k, v 6, attention's output 2, GELU's input 8 and output 8: 24/t
  softmax 2, its mask 1, what is dropped of it 2, an element of a·s²·b: 5·a·s/(h·t), gone where attention is recomputed

What the paper leaves out as small and is there: mean and rstd of each norm (2 x 8 bytes a row), and at the ends of the
model the int64 ids and positions (16 bytes a row) beside the mask of section 4.3; on one device the head as well.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest

from archcalc.documents.train import run_of
from archcalc.training.chunk import segment_memory
from archcalc.training.memory import training_memory
from archcalc.training.run import Run
from tests.support import TINY, spec_of
from tests.training.plans import k2_plan

S, V, T = 2048, 51200, 8


class Model(NamedTuple):
    """A row of Table 3. `share` is eq. 6's factor on a stage's layers: of interleaving, 1 + (p - 1)/(p·m)."""

    name: str
    heads: int
    hidden: int
    layers: int
    stages: int
    virtual: int
    batch: int
    micro_batch: int

    @property
    def sbh(self) -> int:
        return S * self.micro_batch * self.hidden

    @property
    def alive(self) -> int:
        """Layers of a micro-batch alive on the first stage: L, times 1 + (p - 1)/(p·m) where it interleaves."""
        more = (self.stages - 1) * self.layers // (self.stages * self.virtual) if self.virtual > 1 else 0
        return self.layers + more


MODELS = (
    Model("22B", 64, 6144, 48, 1, 1, 4, 4),
    Model("175B", 96, 12288, 96, 8, 3, 64, 1),
    Model("530B", 128, 20480, 105, 35, 3, 280, 1),
    Model("1T", 160, 25600, 128, 64, 1, 512, 1),
)
NONE = ("parallel.sp=false", "activations.core=unfused", "activations.recompute=[]")
SELECTIVE = ("parallel.sp=true", "activations.core=unfused", "activations.recompute=[core_attn]")
FULL = ("parallel.sp=true", "activations.core=unfused", "activations.recompute=[full]")


def run(model: Model, *how: str) -> Run:
    plain: dict[str, Any] = copy.deepcopy(TINY)
    attention = {
        "kind": "gqa",
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "head_dim": model.hidden // model.heads,
        "attention_bias": True,
        "attention_out_bias": True,
        "qk_norm": None,
    }
    dense = {
        "kind": "dense",
        "intermediate_size": 4 * model.hidden,
        "hidden_act": "gelu",
        "gated": False,
        "mlp_bias": True,
    }
    plain["backbone"] |= {
        "hidden_size": model.hidden,
        "vocab_size": V,
        "num_hidden_layers": model.layers,
        "max_position_embeddings": S,
        "position_embeddings": S,
        "rope_theta": None,
        "norm": "layer",
        "layer_norm_eps": 1e-5,
        "layers": [{"count": model.layers, "attention": "a", "ffn": "f"}],
        "attention": {"a": attention},
        "ffn": {"f": dense},
    }
    plain["backbone"].pop("rms_norm_eps", None)
    plan = k2_plan(
        *(f"parallel.{axis}={size}" for axis, size in (("pp", model.stages), ("vpp", model.virtual), ("tp", T))),
        *("parallel.ep=1", f"parallel.world={model.stages * T}", "parallel.layout=auto"),
        f"schedule.kind={'interleaved-1f1b' if model.virtual > 1 else '1f1b'}",
        *("schedule.extra_warmup=0", f"batch.seq={S}", f"batch.micro_batch={model.micro_batch}"),
        f"batch.global_tokens={S * model.batch}",
        *("activations.kernels=fused", "activations.fp8=[]", "activations.offload=none"),
        *("activations.hidden_dropout=0.1", "activations.attention_dropout=0.1", "activations.cross_entropy=fused"),
        "precision.optimizer=adamw",
        *how,
    )
    return run_of(spec_of(plain), plan)


def saved(of: Run, path: str) -> int:
    """Bytes that one copy of the segment keeps."""
    n = next(n for n, s in enumerate(of.tape.segments) if s.path.endswith(path))
    return segment_memory(of.tape, n, of.shards, of.savers).saved


def per_layer(model: Model, how: tuple[str, ...]) -> int:
    """The paper's equations 2, 4 with 6, and section 5's first, and the norms' statistics [bytes]."""
    rows, scores = S * model.micro_batch, model.heads * S * S * model.micro_batch
    if how is NONE:
        return 10 * model.sbh + 24 * model.sbh // T + 5 * scores // T + 16 * rows
    return (34 * model.sbh + 16 * rows) // T if how is SELECTIVE else 2 * model.sbh // T


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("how", [NONE, SELECTIVE, FULL], ids=["none", "selective", "full"])
def test_a_layer_keeps_what_the_paper_adds_up(model: Model, how: tuple[str, ...]) -> None:
    assert saved(run(model, *how), "layers.{i}") == per_layer(model, how)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("how", [NONE, SELECTIVE, FULL], ids=["none", "selective", "full"])
def test_the_first_stage_holds_figure_1s_layers_and_the_ends_beside_them(model: Model, how: tuple[str, ...]) -> None:
    """The mask behind the embedding, one for each micro-batch of the first chunk that is alive: p, and twice as many
    where it interleaves, as the first chunk's second p come before the last chunk is done (section 4.3 counts p).

    With one stage the loss stands there too: the last norm's input 2, the head's 2, and fp32 softmax 4·V/h over the
    vocabulary's devices, with the targets and a mask of a byte (Megatron-LM).
    """
    of = run(model, *how)
    rows = S * model.micro_batch
    sp = 1 if how is NONE else T
    firsts = 2 * model.stages if model.virtual > 1 else model.stages
    embedding = (model.sbh + 16 * rows) // sp
    assert saved(of, "embed_tokens") == embedding
    head = (4 * model.sbh + 17 * rows) // sp + 4 * rows * V // T if model.stages == 1 else 0
    expected = model.alive * per_layer(model, how) + firsts * embedding + head
    assert training_memory(of)[0].activation == expected


def test_figure_1_to_its_printed_digits() -> None:
    """22B and 175B without recomputation: 59.25 and 66.84 GiB by eq. 2 and eq. 6's factor, layers alone."""
    for model, gib in zip(MODELS, (59.25, 66.84), strict=False):
        layers = model.alive * (per_layer(model, NONE) - 16 * S * model.micro_batch)
        assert round(layers / 2**30, 2) == gib
