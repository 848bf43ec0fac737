"""What one step of an engine takes beside weights and cache: a forward-liveness fold of the tape, and its kernels' own.

The step is the one that the engine runs before it sizes the pool (vLLM, v1/worker/gpu_model_runner.py, profile_run):
all the tokens that a step may hold through the layers, then logits and the sampler for max_num_seqs sequences. The
larger of the two counts; the hidden states of the step, what a vision tower made for it, and workspaces that kernels
keep live through both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from archcalc.calc.kv_cache import among
from archcalc.calc.liveness import forward_alive
from archcalc.calc.sharding import local_bytes, local_features, local_size, padded_weight
from archcalc.calc.weights import Scheme
from archcalc.limits import PICTURES, hold
from archcalc.serving.deployment import Deployment, Once, anew
from archcalc.serving.engine import Activation, Bounds, Sampler
from archcalc.tape import Dims, Op, Segment, Storage, Tape, product
from archcalc.tape.values import ITEM_BYTES
from archcalc.workload import Workload


class Traced(Protocol):
    """What a model is to this room: something that can be run on paper."""

    def trace(self, workload: Workload, /) -> Tape:
        """Its tape under a workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The largest step of an engine.

    Attributes:
        tokens: of each data-parallel group [tokens].
        sequences: most sequences at once.
        sampler: whose kernels sample.
        context: the longest sequence [tokens].
        page: of a cache of latents [tokens].
        encoder: whether the vision tower runs in it.
    """

    tokens: int
    sequences: int
    sampler: Sampler
    context: int
    page: int
    encoder: bool


class Peak(NamedTuple):
    """The largest step of one device, by what makes it [bytes]."""

    layers: Bounds
    sampling: Bounds
    vision: Bounds
    kept: Bounds

    @property
    def bounds(self) -> Bounds:
        """What it takes in all: of two kernels either may take more, by the experts' width."""
        parts = (self.layers, self.sampling, self.vision)
        ends = max(p.low for p in parts) + self.kept.low, max(p.high for p in parts) + self.kept.high
        return Bounds(min(ends), max(ends))


def step_peak(
    model: Traced,
    scheme: Scheme,
    where: Deployment,
    step: Step,
    how: Activation,
    stage: range,
    depth: int,
    once: Once = anew,
) -> Peak:
    """The peak of a step on a device of one pipeline stage, which receives or sends two tensors of hidden states where
    there are several [bytes]. `once` remembers each layer, whatever stage it is in. Raises InputError for what can't be
    divided."""
    tape = _step_tape(model, step.tokens)
    encoded, vision = _encoder(model, where, step) if step.encoder and stage.start == 0 else (0, 0)
    found = [(0, 0), (0, 0)]
    for n, segment in enumerate(tape.segments):
        if segment.part == "backbone" and segment.indices[among(segment.indices, stage)]:
            experts = any(w.stack for op in segment.ops for w in op.weights)
            key = (n, where.tp, *((where.dp, where.ep, where.uneven_experts) if experts else ()))
            layer = once(key, partial(_layer, segment, scheme, where, step, how))
            found = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(found, layer, strict=True)]
    received = 2 * _states(tape, step.tokens) if where.pp > 1 else 0
    layers = Bounds(*(peak + encoded + received for peak, _ in found))
    kept = Bounds(*(workspace for _, workspace in found))
    sampling = Bounds(0, 0)
    if stage.stop == depth:
        sampling = _sampling(tape, where, step, how) + Bounds(encoded, encoded)
    return Peak(layers, sampling, Bounds(vision, vision), kept)


def _step_tape(model: Traced, tokens: int) -> Tape:
    return model.trace(Workload(phase="prefill", seq=tokens, logits="last"))


def _states(tape: Tape, tokens: int) -> int:
    """The hidden states of so many tokens, which every device holds whole [bytes]."""
    hidden = next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None)
    return tokens * product(hidden.features) * ITEM_BYTES[hidden.dtype]


# -- layers --------------------------------------------------------------------------------------------------------


def _layer(segment: Segment, scheme: Scheme, where: Deployment, step: Step, how: Activation) -> list[tuple[int, int]]:
    """The peak of one layer, and the workspace that stays when it is done [bytes]: with the first of an engine's
    kernels, and with the last."""
    routed = {s for op in segment.ops for s in (*op.inputs, *op.outputs) if any(d.axis == "routed" for d in s.rows)}
    entry = 0 if segment.entry is None else local_bytes(segment.entry, where.shards)
    entered = entry + _latents(segment, where, step, how)
    grouped = list(_grouped(segment, scheme))
    ran: dict[int, int] = {}  # most layers have no experts, whose kernels alone differ
    found = []
    for pick in (0, -1):
        spaces = [_workspace(*each, where, step, how, pick) for each in grouped]
        taken, kept = max((s.taken for s in spaces), default=0), max((s.kept for s in spaces), default=0)
        if taken not in ran:
            ran[taken] = _ran(segment, where, routed, taken)
        found.append((max(ran[taken], entered), kept))
    return found


def _ran(segment: Segment, where: Deployment, routed: Set[Storage], taken: int) -> int:
    """The peak of one layer whose experts' kernel takes so much beside its results [bytes]."""

    def beside(op: Op) -> int:
        return taken if any(s in routed for s in (*op.inputs, *op.outputs)) else 0

    return forward_alive(_as_called(segment), where.shards, routed, entry=True, beside=beside).total


def _as_called(segment: Segment) -> Segment:
    """The segment as an engine's code calls it: a caller holds what it passes on until the call returns.

    The layer's input is there until the layer is done, the input of attention, feed-forward or experts until their
    output is added (vLLM, models/llama.py, LlamaModel and LlamaDecoderLayer), and the output of shared experts, which
    run first, through the routed ones (layers/fused_moe/layer.py, forward_impl).
    """
    shared = [op for op in segment.ops if op.site.startswith("shared_")]
    rest = [op for op in segment.ops if not op.site.startswith("shared_")]
    first = next((i for i, op in enumerate(rest) if op.exchange == "send"), len(rest))
    ops = [*rest[:first], *shared, *rest[first:]]
    passed: tuple[Storage, ...] = ()
    for i, op in enumerate(ops):
        if op.sums and op.site == "residual":
            ops[i] = op._replace(inputs=(*op.inputs, *passed))
            passed = ()
        elif not passed and op.site != "attn_res":
            passed = op.outputs[:1]
    if segment.entry is not None and ops:
        ops[-1] = ops[-1]._replace(inputs=(*ops[-1].inputs, segment.entry))
    called = Segment(segment.path, segment.indices, segment.part, segment.entry)
    called.ops, called.beside = ops, segment.beside
    return called


class _Space(NamedTuple):
    """What the kernel of routed experts takes while it runs, and what it keeps for ever [bytes]."""

    taken: int
    kept: int


def _grouped(segment: Segment, scheme: Scheme) -> Iterator[tuple[Op, str]]:
    """The first projections of a segment's routed experts, with each dtype that some layers store them in."""
    for op in segment.ops:
        for w in scheme.split(op.weights[:1]) if op.site == "expert_fc1" else ():
            yield op, scheme(w)[0].dtype


def _workspace(op: Op, dtype: str, where: Deployment, step: Step, how: Activation, pick: int) -> _Space:
    """The kernel's own memory for rows that all data-parallel groups route here [bytes].

    Each device sees the tokens of all groups (vLLM, naive and allgather_reducescatter all2all): their hidden states are
    gathered before the experts and their results stand whole before they are scattered. FP8 experts read copies of both
    operands in FP8 (moe_kernel_quantize_input); `modular` kernels hold the second one in their workspaces.
    """
    w = op.weights[0]
    (width, hidden), (rows, *_) = (w.out[-1], w.into[-1]), op.outputs
    choices = _routed(rows.rows)
    tokens = step.tokens * where.dp
    kinds = how.moe_kernels
    packed = dtype.startswith(("int", "uint"))
    names = kinds.packed if packed else kinds.float8 if dtype.startswith("float8") else kinds.unquantized
    kernel = names[pick]
    inner = local_size(width, where.shards)
    chunk = tokens if packed or kernel == "modular" or not kinds.chunk_tokens else min(tokens, kinds.chunk_tokens)
    item = ITEM_BYTES[rows.dtype]
    nbytes = chunk * choices * _KERNELS[kernel](inner, hidden.size) * item
    if dtype.startswith("float8") and kernel != "modular":
        nbytes += chunk * choices * _in_fp8(inner)
    taken = 2 * tokens * hidden.size * item if where.dp > 1 else 0
    if dtype.startswith("float8"):
        taken += tokens * _in_fp8(hidden.size)
    return _Space(taken, nbytes) if kernel == "modular" else _Space(taken + nbytes, 0)


def _in_fp8(elements: int) -> int:
    """A row in FP8, with an fp32 scale for 128 of its elements [bytes]."""
    return elements + 4 * -(-elements // 128)


def _routed(rows: Dims) -> int:
    """How many experts each token is sent to."""
    return product(tuple(d for d in rows if d.axis == "routed"))


def _separate(inner: int, hidden: int) -> int:
    return 3 * inner + hidden


def _fused(inner: int, hidden: int) -> int:
    return max(2 * inner, hidden) + inner


def _modular(inner: int, hidden: int) -> int:
    return max(inner, hidden) + max(2 * inner, hidden)


_KERNELS = {"separate": _separate, "fused_experts": _fused, "modular": _modular}
"""Elements for each routed row, by an expert's width on the device and the hidden size; sources: `MoeKernels`."""


def _latents(segment: Segment, where: Deployment, step: Step, how: Activation) -> int:
    """Keys and values of latents that the engine expands at once (vLLM, MLACommonMetadataBuilder,
    determine_chunked_prefill_workspace_size): tokens of eight contexts, or of four pages a sequence where those are
    more, up to the profile's number; a page a sequence at least [bytes]."""
    wanted = max(8 * step.context, 4 * step.sequences * step.page)
    tokens = max(min(how.latent_tokens, wanted), step.sequences * step.page) if how.latent_tokens else 0
    found = [
        tokens * local_features(w.out, where.shards) * ITEM_BYTES[op.outputs[0].dtype]
        for op in segment.ops
        if op.site == "kv_up"
        for w in op.weights[:1]
    ]
    return max(found, default=0)


# -- logits --------------------------------------------------------------------------------------------------------


def _sampling(tape: Tape, where: Deployment, step: Step, how: Activation) -> Bounds:
    """Hidden states of the step, those of the sampled tokens, and the sampler over whole vocabularies [bytes]."""
    head = next(op for op in tape.ops("backbone") if op.site == "head")
    vocabulary = padded_weight(head.weights[0], where.shards).out[0].size
    hidden = product(head.weights[0].into) * ITEM_BYTES[head.inputs[0].dtype]
    rows = min(step.sequences, step.tokens)
    states, each = (step.tokens + rows) * hidden, how.sampler.per_logit(step.sampler, rows)
    return Bounds(states + rows * vocabulary * each.low, states + rows * vocabulary * each.high)


# -- vision --------------------------------------------------------------------------------------------------------

_LARGEST_SIDE = 1 << 14
"""A side that every processor scales down to its own limit [pixels]."""


def _encoder(model: Traced, where: Deployment, step: Step) -> tuple[int, int]:
    """What the projector's outputs take through the step, and the tower's own peak before it [bytes].

    Engines run it on as many of its largest images as fill a step's tokens, at least one, and keep the outputs (vLLM,
    multimodal/encoder_budget.py: max(max_num_batched_tokens, tokens of the largest item)). A replicated tower runs each
    device's share of the images.
    """
    one = _image_tokens(model)
    if not one:
        return 0, 0
    images = max(1, min(step.tokens // one, step.sequences))
    mine = images if where.vision == "sharded" else -(-images // where.tp)
    seen = _vision_tape(model, mine)
    parts = [s for s in seen.segments if s.part in ("vision", "projector")]
    shards = where.shards
    outputs = max(step.tokens, one) * _token_bytes(parts)
    return outputs, outputs + max(forward_alive(s, shards, frozenset(), entry=True).total for s in parts)


def _token_bytes(parts: Iterable[Segment]) -> int:
    """What projectors make of one backbone token, those of earlier layers too [bytes]."""
    made = [(s.count, s.ops[-1].outputs[0]) for s in parts if s.part == "projector"]
    return sum(count * product(storage.features) * ITEM_BYTES[storage.dtype] for count, storage in made)


def _vision_tape(model: Traced, images: int) -> Tape:
    hold(PICTURES, images)
    return model.trace(
        Workload(phase="prefill", seq=1, logits="last", images=((_LARGEST_SIDE, _LARGEST_SIDE),) * images)
    )


def _image_tokens(model: Traced) -> int:
    """Backbone tokens of the largest image; 0 without a tower."""
    if not any(w.part == "vision" for w in model.trace(Workload()).weights()):
        return 0
    return _vision_tape(model, 1).vision_tokens
