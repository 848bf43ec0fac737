"""Engine profiles: how a serving engine divides a device's memory, each constant with its source and its range."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.files.loader import parse, text_of
from archcalc.files.model import Text
from archcalc.hardware import Hardware
from archcalc.section import About, Amount, Memory, Section, Size
from archcalc.serving.deployment import Vision

FOLDER = "engines"
Share = Annotated[float, Field(gt=0, le=1)]
Sampler = Literal["torch", "flashinfer"]
End = Literal["low", "middle", "high"]
MoeKernel = Literal["separate", "fused_experts", "modular"]


class Bounds(NamedTuple):
    """The least and the most that a term takes, by the sources [bytes]."""

    low: int
    high: int

    @property
    def middle(self) -> int:
        """What a verdict is decided at."""
        return (self.low + self.high) // 2

    def at(self, end: End) -> int:
        """One of the three."""
        return {"low": self.low, "middle": self.middle, "high": self.high}[end]

    def __add__(self, other: Bounds) -> Bounds:  # type: ignore[override]
        return Bounds(self.low + other.low, self.high + other.high)


def _range(pair: list[int]) -> list[int]:
    if pair[0] > pair[1]:
        raise InputError(f"the range runs backwards: {pair[0]:,} is more than {pair[1]:,}", value=pair)
    return pair


Pair = Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2), AfterValidator(_range)]
MemoryPair = Annotated[list[Amount], Field(min_length=2, max_length=2), AfterValidator(_range)]


class DeviceClass(Section):
    """What the engine chooses on devices of a size."""

    about = About(
        "What the engine chooses on devices of a size",
        memory_from="Visible memory from which this holds; left out: always [bytes]",
        never="Words in the names of devices that it does not hold for, whatever their memory",
        max_num_batched_tokens=(
            "Tokens of one step (vLLM: --max-num-batched-tokens; SGLang: --chunked-prefill-size) [tokens]"
        ),
        max_num_seqs="Sequences of one step (vLLM: --max-num-seqs; SGLang: --cuda-graph-max-bs)",
    )

    memory_from: Memory | None = None
    never: list[Text] = Field(default_factory=list)
    max_num_batched_tokens: Size
    max_num_seqs: Size

    def holds(self, hardware: Hardware) -> bool:
        """Whether a device belongs to this class."""
        large = self.memory_from is None or hardware.memory_visible_bytes >= self.memory_from
        return large and not hardware.is_named(self.never)


class FusedAllReduce(Section):
    """The workspace of a kernel that fuses all-reduce and norm, in compiled models of one tensor-parallel group."""

    about = About(
        "The workspace of a kernel that fuses all-reduce and norm, in compiled models of one tensor-parallel group",
        bytes="What it takes; least and most by the sources [bytes]",
        never="Words in the names of devices that have no such kernel",
    )

    bytes: MemoryPair
    never: list[Text]


class NonTorch(Section):
    """Memory outside torch's allocator by how devices are linked: contexts, NCCL, communication buffers [bytes]."""

    about = About(
        "Memory outside torch's allocator by how devices are linked: contexts, NCCL, communication buffers",
        one_device="Where no other device shares its layers; least and most by the sources [bytes]",
        pcie="Where others do, over PCIe; least and most by the sources [bytes]",
        nvlink="Where others do, over a faster link; least and most by the sources [bytes]",
        fused_all_reduce="On top of `nvlink`; left out: nothing",
    )

    one_device: MemoryPair
    pcie: MemoryPair
    nvlink: MemoryPair
    fused_all_reduce: FusedAllReduce | None = None


class Sampling(Section):
    """What the sampler takes for each of max_num_seqs x vocabulary logits [bytes]."""

    about = About(
        "What the sampler takes for each of max_num_seqs x vocabulary logits",
        default="The sampler that this engine runs unless it is told otherwise",
        torch="With torch's sort; least and most by the sources [bytes a logit]",
        torch_few=(
            "With torch's sort below 128 sequences, where it sorts in another way; least and most by the sources "
            "[bytes a logit]"
        ),
        flashinfer=(
            "With FlashInfer's or Triton's kernels, which do not sort; least and most by the sources [bytes a logit]"
        ),
    )

    default: Sampler
    torch: Pair
    torch_few: Pair
    flashinfer: Pair

    def per_logit(self, sampler: Sampler, sequences: int) -> Bounds:
        """The range for a number of sequences."""
        if sampler == "flashinfer":
            return Bounds(*self.flashinfer)
        return Bounds(*(self.torch_few if sequences < SEGMENTED_SORT_ROWS else self.torch))


SEGMENTED_SORT_ROWS = 128
"""Rows from which torch sorts all of them at once (ATen, native/cuda/SortStable.cu)."""


class MoeKernels(Section):
    """The kernels of routed experts by how these are stored (vLLM, fused_moe.py and marlin_moe.py; modular_kernel.py,
    workspace_shapes)."""

    about = About(
        (
            "The kernels of routed experts by how these are stored. What they hold of each routed row, with I an "
            "expert's width on the device and H the hidden size: `separate` 2I, I and H elements; `fused_experts` "
            "max(2I, H) and I; `modular` max(I, H) and max(2I, H), which it keeps from the first layer on"
        ),
        unquantized=(
            "Of experts in 16 bits: `separate` (vLLM before pull request 13625), `fused_experts` or `modular`; two "
            "names where versions or backends differ"
        ),
        float8=(
            "Of experts in FP8: `separate` (vLLM before pull request 13625), `fused_experts` or `modular`; two names "
            "where versions or backends differ"
        ),
        packed=(
            "Of experts in integers of fewer bits: `separate` (vLLM before pull request 13625), `fused_experts` or "
            "`modular`; two names where versions or backends differ"
        ),
        chunk_tokens=(
            "Tokens that `fused_experts` and `separate` take at a time, except of packed experts; left out: all "
            "[tokens]"
        ),
    )

    unquantized: list[MoeKernel] = Field(min_length=1, max_length=2)
    float8: list[MoeKernel] = Field(min_length=1, max_length=2)
    packed: list[MoeKernel] = Field(min_length=1, max_length=2)
    chunk_tokens: Size | None = None


class Activation(Section):
    """What one step takes beside the tensors of the forward pass."""

    about = About(
        "What one step takes beside the tensors of the forward pass",
        moe_kernels="Kernels of routed experts, by how these are stored",
        sampler="What the sampler takes for each logit",
        latent_tokens="Tokens of latents that the engine expands at once where attention is MLA; 0: none [tokens]",
        encoder="Whether the vision tower runs on its largest inputs before the pool is sized",
    )
    retired: ClassVar[frozenset[str]] = frozenset(
        {
            "max_num_batched_tokens",
            "max_num_batched_tokens_small",
            "max_num_seqs",
            "max_num_seqs_small",
            "large_memory_bytes",
            "never_large",
            "bytes_per_token",
        }
    )
    moe_kernels: MoeKernels
    sampler: Sampling
    latent_tokens: NonNegativeInt
    encoder: bool


class CudaGraphs(Section):
    """Captured graphs."""

    about = About(
        "Captured CUDA graphs",
        inside_utilization="Whether they count against the engine's share; else they come on top of it",
        fixed_bytes="Taken whatever the model; least and most by the sources [bytes]",
        bytes_per_layer="Of one captured size and one layer; least and most by the sources [bytes]",
        largest=(
            "The largest size that is captured; sizes are 1, 2, 4, every 8th to 256, every 16th above, to twice "
            "max_num_seqs at most [sequences]"
        ),
        twice="Whether sizes that hold max_num_seqs sequences are captured a second time, attention included",
        none_of_dense="Whether some versions count none of a model without experts",
    )

    inside_utilization: bool
    fixed_bytes: MemoryPair
    bytes_per_layer: MemoryPair
    largest: Size
    twice: bool
    none_of_dense: bool

    def captured(self, sequences: int) -> int:
        """How many graphs are captured: sizes 1, 2, 4, every 8th to 256, every 16th above (vLLM, config/vllm.py,
        _set_cudagraph_sizes), to twice max_num_seqs at most."""
        most = min(2 * sequences, self.largest)
        return _sizes(most) + (_sizes(min(most, sequences)) if self.twice else 0)

    def bounds(self, sequences: int, layers: int, *, dense: bool) -> Bounds:
        """Graphs of a model's layers [bytes]."""
        count = self.captured(sequences) * layers
        low, high = (f + count * n for f, n in zip(self.fixed_bytes, self.bytes_per_layer, strict=True))
        return Bounds(0 if dense and self.none_of_dense else low, high)


def _sizes(most: int) -> int:
    """How many sizes of graphs there are up to `most`."""
    return sum(size <= most for size in (1, 2, 4)) + min(most, 256) // 8 + max(0, most - 256) // 16


class Reserve(Section):
    """What a default share of the memory leaves to activations and graphs (SGLang, server_args.py,
    _handle_gpu_memory_settings) [bytes].
    """

    about = About(
        (
            "What a default share of the memory leaves to activations and graphs (SGLang, server_args.py, "
            "_handle_gpu_memory_settings)"
        ),
        fixed="Always [bytes]",
        per_batched_token="For each token of a step [bytes]",
        per_device="For each of tp x pp devices; of all devices where groups share experts [bytes]",
        per_sequence="For each sequence of the largest graph [bytes]",
        per_shared_sequence=(
            "On top for each sequence of the largest graph, for each of the data-parallel groups that share experts "
            "[bytes]"
        ),
        per_shared_sequence_of_many="On top of that above `many_sequences` [bytes]",
        many_sequences="Sequences of the largest graph above which `per_shared_sequence_of_many` comes on top",
        least="At least so much, on devices of `least_from` bytes and more [bytes]",
        least_from="Visible memory from which `least` holds [bytes]",
        shrinks_with_tower="Whether the share is smaller where a vision tower is loaded, by the tower's size",
    )

    fixed: Amount
    per_batched_token: Amount
    per_device: Amount
    per_sequence: Amount
    per_shared_sequence: Amount
    per_shared_sequence_of_many: Amount
    many_sequences: Size
    least: Amount
    least_from: Amount
    shrinks_with_tower: bool


class TensorParallel(Section):
    """What tensor parallelism does where the engine has a choice."""

    about = About(
        "What tensor parallelism does where the engine has a choice",
        vision=(
            "The vision tower: `sharded`, divided by tp, or `replicated`, whole on every device (vLLM: "
            "--mm-encoder-tp-mode)"
        ),
    )
    retired: ClassVar[frozenset[str]] = frozenset({"replicated", "divided", "projector"})
    vision: Vision


class Engine(Section):
    """How a serving engine divides a device's memory."""

    about = About(
        "How a serving engine divides a device's memory, each constant with its source and its range",
        kind="What file this is",
        name="Short name, by which commands and reports call it",
        title="The engine and its versions, as reports print it",
        sources="Where the constants are from, each source under a name of its own; comments may name them",
        share_of=(
            "What `utilization` is a share of: the `visible` memory, of which overhead is taken; or what is `free` "
            "before weights are loaded, where weights and cache alone count against it"
        ),
        utilization=(
            "The share by default, above 0 (vLLM: --gpu-memory-utilization); exactly one of `utilization` and "
            "`reserve` [share]"
        ),
        reserve=(
            "What the default share leaves, where that follows from device and step (SGLang: --mem-fraction-static); "
            "exactly one of `utilization` and `reserve`"
        ),
        block_size="Tokens of a page of the cache (vLLM: --block-size) [tokens]",
        block_size_mla="The same for multi-head latent attention [tokens]",
        hybrid_groups="Whether layers that cache by different spans share pages in groups of equal numbers of layers",
        devices="Defaults by device: the first that holds; the last must hold for all",
        whole_prompts=(
            "Whether a step holds a prompt of the whole context where that is longer than its tokens, up to "
            "`chunked_from` tokens of context (V0 without chunked prefill)"
        ),
        chunked_from="Context above which prompts are cut into steps [tokens]",
        context_parallel=(
            "Whether it divides the context of a sequence within a tensor-parallel group (vLLM: "
            "--decode-context-parallel-size)"
        ),
        uneven_experts="Whether devices may hold different numbers of experts",
        absorbed_copies=(
            "Whether MLA's up-projection is kept a second time: `always`, where it is stored `quantized`, or `never`"
        ),
        non_torch_bytes="Memory outside torch's allocator",
        cuda_graphs="Captured graphs",
        activation="What one step takes",
        tensor_parallel="What tensor parallelism does where the engine has a choice",
        assumed="What the constants rest on, each as `key: why`",
    )
    retired: ClassVar[frozenset[str]] = frozenset(
        {
            "kv_cache_dtypes",
            "fp8_ds_mla_bytes_per_layer",
            "measured",
            "cuda_graphs_inside_utilization",
            "cuda_graph_bytes",
            "non_torch_bytes_one_device",
        }
    )
    kind: Literal["engine"]
    name: Text
    title: Text
    sources: dict[str, Text]
    share_of: Literal["visible", "free"]
    utilization: Share | None = None
    reserve: Reserve | None = None
    block_size: Size
    block_size_mla: Size
    hybrid_groups: bool
    devices: Annotated[list[DeviceClass], Field(min_length=1)]
    whole_prompts: bool = False
    chunked_from: Size | None = None
    context_parallel: bool
    uneven_experts: bool
    absorbed_copies: Literal["always", "quantized", "never"]
    non_torch_bytes: NonTorch
    cuda_graphs: CudaGraphs
    activation: Activation
    tensor_parallel: TensorParallel
    assumed: list[Text]

    @model_validator(mode="after")
    def _complete(self) -> Engine:
        if (self.utilization is None) == (self.reserve is None):
            raise FieldError("an engine has either a utilization or a reserve", "utilization", "reserve")
        last = self.devices[-1]
        if last.memory_from is not None or last.never:
            raise FieldError(
                "the last class of devices must hold for all that are left", ("devices", len(self.devices) - 1)
            )
        return self

    def device(self, hardware: Hardware) -> DeviceClass:
        """The defaults on a device."""
        return next(c for c in self.devices if c.holds(hardware))


def load_engine(name_or_path: str = "vllm") -> Engine:
    """An engine profile by bundled name or path.

    Raises:
        InputError: no such file or name, or no YAML of ours.
        SpecError: a readable file that is no valid profile.
    """
    return parse(*text_of(name_or_path, FOLDER), Engine)
