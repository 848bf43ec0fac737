"""What layers hand to later ones beside the residual: keys that an indexer chose, outputs of blocks of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archcalc.arch.attention.mla import MLA
from archcalc.arch.block import Block
from archcalc.arch.layers import LayerKind
from archcalc.errors import FieldError
from archcalc.tape import Dim, Storage, Tape, Tensor

RESIDUAL_MODULES = {"attention": "self_attention_res", "ffn": "mlp_res"}
"""What weighs the sources of a mixer's input, by its section: `..._norm` and `..._proj`, as Kimi K3's checkpoint names
them."""

ASSUMED = (
    "Attention residuals: no training code is public. Every site is counted as if all blocks were done, which"
    " is true of the last one; it keeps its running sum for backward, and what pipeline stages send of the blocks'"
    " outputs is not counted."
)


def check_choices(layers: Iterable[LayerKind], predicted: LayerKind, attention: Mapping[str, Block]) -> None:
    """Each layer that takes a choice comes after one that makes it, of as many keys; before a prediction module's layer
    (`predicted`, which may be none) stands none. Raises FieldError."""
    made: int | None = None
    for kind in layers:
        made = _made(kind, attention, made)
    if any(_taken(attention[step.mixer]) is not None for step in attends(predicted)):
        raise FieldError(
            "a prediction module has no earlier layer whose indexer chose keys: name another kind with mtp_layer",
            "num_nextn_predict_layers",
            "attention",
        )


def attends(kind: LayerKind) -> LayerKind:
    """Its steps that attend."""
    return tuple(step for step in kind if step.section == "attention")


def _made(kind: LayerKind, attention: Mapping[str, Block], made: int | None) -> int | None:
    """How many keys are chosen after a layer, `made` before it."""
    for step in attends(kind):
        block = attention[step.mixer]
        taken = _taken(block)
        if taken is not None and taken != made:
            known = "no layer before it has one" if made is None else f"the last one before it chooses {made}"
            raise FieldError(
                f"index_topk {taken} of an earlier layer's indexer: {known}",
                ("attention", step.mixer, "index_topk"),
                "layers",
            )
        if isinstance(block, MLA) and block.indexer is not None:
            made = block.indexer.index_topk
    return made


def _taken(block: Block) -> int | None:
    return block.index_topk if isinstance(block, MLA) else None


def takes_choices(attention: Iterable[Block]) -> bool:
    """Whether any of these attends to keys that an earlier layer's indexer chose."""
    return any(_taken(block) is not None for block in attention)


def check_residuals(layers: Iterable[LayerKind], prediction_modules: int) -> None:
    """Attention residuals of layers as Kimi K3 has them: an attention, then a feed-forward. Raises FieldError."""
    if prediction_modules:
        raise FieldError(
            "no source says what a prediction module reads under attn_res_block_size",
            "num_nextn_predict_layers",
            "attn_res_block_size",
        )
    for kind in layers:
        if [step.section for step in kind] != ["attention", "ffn"] or kind[1].parallel:
            raise FieldError(
                "attn_res_block_size needs layers of an attention and a feed-forward, in sequence",
                "attn_res_block_size",
                "layers",
            )


def block_outputs(tape: Tape, x: Tensor, block_size: int, depth: int) -> Tensor:
    """What the blocks of so many layers have made when all are done, beside the residual x: [batch, seq, blocks, h].

    A block's output is the running sum of its mixers' outputs, the first one's the embedding, noted when the next block
    begins (vLLM, models/kimi_linear.py: attn_res_block_num). A pass is traced once for all layers of a kind, so each
    sees as many as the last one.
    """
    tape.assume(ASSUMED)
    features = (Dim("blocks", -(-depth // block_size)), *x.features)
    held = Tensor(x.rows, features, Storage(x.rows, features, x.dtype))
    tape.beside(held)
    return held
