"""The stable names of numbers: what each one is, and its unit. docs/glossary.md is generated from here."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.documents.document import Unit


class Quantity(NamedTuple):
    """What a name stands for. `below_zero` is the label of a value below zero, which is printed without its sign."""

    unit: Unit
    label: str
    meaning: str
    below_zero: str = ""


QUANTITIES: dict[str, Quantity] = {
    "params.total": Quantity(
        "count", "total", "Trained parameters of the whole model; buffers and multi-token prediction are apart."
    ),
    "params.buffers": Quantity(
        "count", "buffers", "Checkpoint elements that are not trained (router correction biases)."
    ),
    "params.mtp": Quantity(
        "count",
        "multi-token prediction",
        "Trained parameters of multi-token-prediction modules; shared embedding and head not counted again.",
    ),
    "params.backbone": Quantity("count", "backbone", "Trained parameters of the text backbone."),
    "params.vision": Quantity("count", "vision tower", "Trained parameters of the vision tower."),
    "params.projector": Quantity("count", "projector", "Trained parameters of the projector."),
    "params.routed_experts": Quantity(
        "count", "routed experts", "Trained parameters of the backbone's routed experts."
    ),
    "params.active": Quantity(
        "count", "active", "Parameters that one text token uses, input embedding and output head included."
    ),
    "params.active_no_embedding": Quantity(
        "count", "active, no embedding", "Active parameters without the input embedding (a lookup)."
    ),
    "params.active_no_embedding_no_head": Quantity(
        "count", "active, no embedding, no head", "Active parameters without input embedding and output head."
    ),
    "moe.activation_ratio": Quantity("share", "routed experts a token uses", "num_experts_per_tok / n_routed_experts."),
    "projector.merged_hidden_size": Quantity(
        "int", "merged patch width", "Features of one merged vision token, before the projector's linears."
    ),
    "flops.forward": Quantity("flops", "forward", "FLOPs of the forward pass: backbone, vision and projector."),
    "flops.backward": Quantity("flops", "backward", "FLOPs of the backward pass; 0 unless the phase is train."),
    "flops.total": Quantity("flops", "total", "Forward and backward."),
    "flops.linear": Quantity("flops", "backbone linears", "The backbone's products with weights, forward."),
    "flops.attention_core": Quantity(
        "flops", "backbone attention core", "The backbone's attention scores and values, forward."
    ),
    "flops.index": Quantity(
        "flops", "backbone index scores", "Scores that choose what attention sees, forward; where there are any."
    ),
    "flops.scan": Quantity("flops", "backbone scans", "Recurrences over a state, forward; where there are any."),
    "flops.conv": Quantity(
        "flops", "backbone convolutions", "Short convolutions over tokens, forward; where there are any."
    ),
    "flops.backbone": Quantity("flops", "backbone", "The backbone's forward: the sum of its classes."),
    "flops.vision": Quantity("flops", "vision tower", "The vision tower's forward."),
    "flops.projector": Quantity("flops", "projector", "The projector's forward."),
    "flops.per_token": Quantity(
        "flops",
        "forward per token",
        "Forward over all new tokens, text and vision; an integer where it divides evenly.",
    ),
    "flops.run_total": Quantity("flops", "whole run", "A training step's FLOPs a token times the run's tokens."),
    "flops.run_6nd": Quantity("flops", "6ND", "6 · active parameters · tokens, the usual rule of thumb."),
    "flops.run_ratio": Quantity("number", "whole run / 6ND", "How far the rule of thumb is off."),
    "vision.tokens": Quantity(
        "int", "vision tokens", "Backbone tokens that images and videos make; marker tokens around them are text."
    ),
    "vision.patches": Quantity("int", "vision patches", "Patches that the vision tower sees."),
    "kv.bytes_per_token": Quantity(
        "bytes",
        "per token",
        "What one token more adds to a sequence's cache over all layers, one copy, at the length asked about; `p/q` in"
        " `exact` where one entry stands for several tokens.",
    ),
    "kv.fixed_bytes": Quantity(
        "bytes", "fixed", "A sequence's cache less growth times length: states, and windows that are full."
    ),
    "kv.sequence_bytes_8k": Quantity("bytes", "a sequence of 8k", "Cache of one sequence of 8,192 tokens, one copy."),
    "kv.sequence_bytes_128k": Quantity(
        "bytes", "a sequence of 128k", "Cache of one sequence of 131,072 tokens, one copy."
    ),
    "kv.total_bytes": Quantity("bytes", "total", "Cache of all sequences, one copy, in whole pages."),
    "kv.bytes_per_device": Quantity("bytes", "per device", "Cache on the fullest device."),
    "kv.max_tokens": Quantity(
        "tokens", "tokens that fit", "Tokens of one sequence that fit into the memory of each device, times dp."
    ),
    "weights.bytes": Quantity("bytes", "checkpoint", "Tensor data of the checkpoint."),
    "weights.elements": Quantity(
        "count", "elements", "Logical weights and stored buffers; no scales, shapes or packing."
    ),
    "weights.bits_per_parameter": Quantity("number", "bits per element", "Checkpoint bits over elements."),
    "weights.training_checkpoint_bytes": Quantity(
        "bytes", "training checkpoint", "bf16 weights, master weights, optimizer states and buffers."
    ),
    "serve.fits": Quantity(
        "bool", "fits", "Whether weights, overhead and the cache of the asked-for sequences fit on each GPU."
    ),
    "serve.gpus": Quantity("int", "GPUs", "GPUs of the deployment: tp · pp · dp."),
    "serve.weights_bytes": Quantity("bytes", "weights per GPU", "Weights that each GPU holds, as stored."),
    "serve.overhead_bytes": Quantity(
        "bytes", "overhead per GPU", "Activation workspace, CUDA graphs and non-torch memory of each GPU."
    ),
    "serve.kv_bytes": Quantity(
        "bytes", "KV cache per GPU", "Cache of the asked-for sequences on each GPU, in whole pages."
    ),
    "serve.kv_budget_bytes": Quantity(
        "bytes", "room for KV cache per GPU", "What weights and overhead leave of the usable memory."
    ),
    "serve.kv_bytes_low": Quantity(
        "bytes", "room for KV cache, at least", "The same where all that is assumed of the overhead is at its most."
    ),
    "serve.kv_bytes_high": Quantity(
        "bytes", "room for KV cache, at most", "The same where all that is assumed of the overhead is at its least."
    ),
    "serve.margin_bytes": Quantity(
        "bytes",
        "left per GPU",
        "What is left of the usable memory when the asked-for sequences are cached; negative where they don't fit.",
        "missing per GPU",
    ),
    "serve.max_tokens": Quantity(
        "tokens",
        "cached tokens",
        "Tokens that the room for the KV cache holds over all GPUs: of the longest sequence, times dp. Where windows or"
        " states are kept for each sequence, many short ones hold another number.",
    ),
    "serve.max_context": Quantity(
        "tokens",
        "longest context by memory",
        "Tokens of one sequence that the room for the KV cache holds; the model may allow fewer.",
    ),
    "serve.price_per_hour": Quantity("number", "price an hour", "Of all GPUs, at the price that you gave."),
    "serve.host_bytes": Quantity(
        "bytes", "experts on the host", "Routed experts that stay in the host's memory, all of them once."
    ),
    "serve.host_bytes_per_token": Quantity(
        "bytes", "read a token", "Of the experts on the host, those that one decoded token is sent to."
    ),
    "serve.host_tokens_per_second": Quantity(
        "number",
        "tokens a second, at most",
        "What the way to the host allows, PCIe or its own memory, reading experts alone, for the asked-for sequences.",
    ),
    "serve.context_limit": Quantity("tokens", "the model's context limit", "max_position_embeddings."),
    "serve.max_batch": Quantity(
        "int",
        "sequences at this context",
        "Sequences of the asked-for context that the room for the KV cache holds, over all GPUs.",
    ),
    "train.params_bytes": Quantity("bytes", "weights", "Weights of the worst rank."),
    "train.grads_bytes": Quantity("bytes", "gradients", "Gradients of the worst rank."),
    "train.optimizer_bytes": Quantity("bytes", "optimizer", "Optimizer states of the worst rank, its shard."),
    "train.buffers_bytes": Quantity("bytes", "buffers", "Buffers of the worst rank."),
    "train.activation_bytes": Quantity(
        "bytes", "activations", "Saved for backward on the worst rank at its worst moment."
    ),
    "train.transient_bytes": Quantity("bytes", "transient", "What lives only while the worst moment's operation runs."),
    "train.fixed_bytes": Quantity(
        "bytes", "fixed", "The plan's fixed memory, what kernels cache, the stack's workspaces."
    ),
    "train.offloaded_bytes": Quantity("bytes", "on the host", "The most that the worst rank keeps in host memory."),
    "train.live_chunks": Quantity("int", "chunks alive", "The most chunks alive at once on the worst rank."),
    "train.peak_bytes": Quantity("bytes", "peak", "The worst rank at its worst moment, the allocator's efficiency in."),
    "train.peak_first_bytes": Quantity(
        "bytes",
        "peak of iteration 1",
        "The highest peak of the first iteration on any rank: its optimizer makes the moments in its step, at the end.",
    ),
    "train.worst_rank": Quantity("ordinal", "worst rank", "The pipeline rank with the highest peak."),
    "train.params_grads_bytes_unique": Quantity(
        "bytes", "weights + gradients, unique", "Each weight once: what papers divide."
    ),
    "train.params_grads_bytes_resident": Quantity(
        "bytes", "weights + gradients, resident", "Summed over the GPUs of one model replica, replicas in."
    ),
    "train.checkpoint_bytes": Quantity(
        "bytes",
        "checkpoint",
        "A training checkpoint: each weight once in the plan's dtype, its optimizer states once, and buffers.",
    ),
    "train.fits": Quantity("bool", "fits", "Whether the peak is within the memory that a program sees."),
}
"""Every quantity by its stable name. `params[PATH]` names the parameters at or below a module path."""


def quantity(name: str) -> Quantity:
    """The entry of a name; `params[PATH]` names are made up as they are asked for. Raises KeyError for an unknown
    name."""
    if name.startswith("params[") and name.endswith("]"):
        return Quantity("count", name, f"Parameters at or below {name[7:-1]}.")
    return QUANTITIES[name]
