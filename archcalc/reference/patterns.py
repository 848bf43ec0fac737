"""The order of layers and, inside a layer, of its residual steps, as the spec's `layers` writes them. No torch.

A layer is a tuple of steps, each x + mixer(norm x) or one of its variants. Pre-norm: arXiv:2002.04745, figure 1;
post-norm on the branch: OLMo 2, arXiv:2501.00656; both norms ("sandwich"): Gemma 2, arXiv:2408.00118,
section 2; parallel: GPT-J and PaLM, arXiv:2204.02311, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import norm_name

PLACEMENTS = ("pre", "post", "sandwich", "none")

_SCOPES = {"attention": "self_attn", "ffn": "mlp"}
_INPUT_NORMS = {
    ("attention", "pre"): "input_layernorm",
    ("ffn", "pre"): "post_attention_layernorm",
    ("attention", "sandwich"): "input_layernorm",
    ("ffn", "sandwich"): "pre_feedforward_layernorm",
}
_OUTPUT_NORMS = {"attention": "post_attention_layernorm", "ffn": "post_feedforward_layernorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One residual step of a layer.

    Attributes:
        side: `attention` or `ffn`.
        name: of the section there.
        scope: module name of the mixer.
        norm: kind of its norms.
        input_norm: module name of the norm before the mixer, or None.
        output_norm: module name of the norm after it, or None.
        parallel: it reads the residual that the step before it read.
        shares: it reads the very input of the mixer before it, norm included.
    """

    side: str
    name: str
    scope: str
    norm: str
    input_norm: str | None
    output_norm: str | None
    parallel: bool
    shares: bool


LayerKind = tuple[Step, ...]


def layer_kinds(backbone: Section) -> list[LayerKind]:
    """The kind of every layer, in order.

    Raises:
        InputError: when the counts don't add up to `num_hidden_layers`, or a key is missing or unknown.
    """
    kinds = _entries(backbone, backbone)
    backbone.expect("num_hidden_layers", len(kinds))
    return kinds


def prediction_kind(backbone: Section) -> LayerKind:
    """The layer of a multi-token prediction module: `mtp_layer`, or else the last layer's kind."""
    own = backbone.optional_section("mtp_layer")
    return layer_kinds(backbone)[-1] if own is None else _kind(backbone, own)


def plain_kind(backbone: Section, attention: str, ffn: str) -> LayerKind:
    """Attention, then feed-forward, with the backbone's norms."""
    where = f"{backbone.where}.layers"
    steps = ({"attention": attention}, {"ffn": ffn})
    return tuple(_step(backbone, Section(step, where), index) for index, step in enumerate(steps))


def _entries(backbone: Section, around: Section) -> list[LayerKind]:
    """The layers that stand under `layers` of the backbone or of a repeated pattern, written out."""
    return [kind for entry in around.sections("layers") for kind in _entry(backbone, entry)]


def _entry(backbone: Section, entry: Section) -> list[LayerKind]:
    if not entry.has("repeat"):
        times = _count(entry, "count")
        return [_kind(backbone, entry)] * times
    times, inner = _count(entry, "repeat"), _entries(backbone, entry)
    entry.finish()
    return inner * times


def _count(entry: Section, key: str) -> int:
    times = entry.integer(key)
    if times < 1:
        raise InputError(f"{entry.where}.{key} must be at least 1", value=times)
    return times


def _kind(backbone: Section, layer: Section) -> LayerKind:
    if layer.has("steps"):
        kind = tuple(_step(backbone, step, index) for index, step in enumerate(layer.sections("steps")))
    else:
        kind = plain_kind(backbone, layer.word("attention"), layer.word("ffn"))
    layer.finish()
    _refuse_repeated_names(kind, layer.where)
    return kind


def _step(backbone: Section, step: Section, index: int) -> Step:
    if step.has("attention") == step.has("ffn"):
        raise InputError(f"{step.where} must name either an attention or an ffn section")
    side = "attention" if step.has("attention") else "ffn"
    placement = step.choice("norm_placement", *PLACEMENTS, default=placement_of(backbone))
    parallel = step.choice("arrangement", "sequential", "parallel", default="sequential") == "parallel"
    if parallel and not index:
        raise InputError(f"{step.where}: the first step of a layer has no step to be parallel to")
    made = Step(
        side=side,
        name=step.word(side),
        scope=step.word("scope", _SCOPES[side]),
        norm=norm_name(step, default=norm_name(backbone)),
        input_norm=step.word("input_norm", _INPUT_NORMS[side, placement]) if placement in ("pre", "sandwich") else None,
        output_norm=step.word("output_norm", _OUTPUT_NORMS[side]) if placement in ("post", "sandwich") else None,
        parallel=parallel,
        shares=parallel and placement == "none",
    )
    step.finish()
    return made


def placement_of(backbone: Section) -> str:
    """Where the backbone's layers have their norms, one of `PLACEMENTS`."""
    return backbone.choice("norm_placement", *PLACEMENTS, default="pre")


def _refuse_repeated_names(kind: LayerKind, where: str) -> None:
    seen: set[str] = set()
    for name in _names(kind):
        if name in seen:
            raise InputError(f"{where}: two parts of one layer are called {name}", value=name)
        seen.add(name)


def _names(kind: LayerKind) -> Iterator[str]:
    for step in kind:
        yield from (name for name in (step.input_norm, step.scope, step.output_norm) if name is not None)
