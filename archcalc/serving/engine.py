"""Engine profiles: how a serving engine divides a device's memory, each constant with its source and its range."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.files.loader import parse, text_of
from archcalc.files.model import Text
from archcalc.hardware import Hardware
from archcalc.section import Amount, Memory, Section, Size
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
    """What the engine chooses on devices of a size.

    Attributes:
        memory_from: visible memory from which this holds [bytes]; always where it is left out.
        never: words in the names of devices that it does not hold for, whatever their memory.
        max_num_batched_tokens: tokens of one step.
        max_num_seqs: sequences of one step.
    """

    memory_from: Memory | None = None
    never: list[Text] = Field(default_factory=list)
    max_num_batched_tokens: Size
    max_num_seqs: Size

    def holds(self, hardware: Hardware) -> bool:
        """Whether a device belongs to this class."""
        large = self.memory_from is None or hardware.memory_visible_bytes >= self.memory_from
        return large and not hardware.is_named(self.never)


class FusedAllReduce(Section):
    """The workspace of a kernel that fuses all-reduce and norm, in compiled models of one tensor-parallel group.

    Attributes:
        bytes: what it takes [bytes].
        never: words in the names of devices that have no such kernel.
    """

    bytes: MemoryPair
    never: list[Text]


class NonTorch(Section):
    """Memory outside torch's allocator by how devices are linked: contexts, NCCL, communication buffers [bytes].

    Attributes:
        one_device: where no other shares its layers.
        pcie, nvlink: where others do, by the faster link between them.
        fused_all_reduce: on top of `nvlink`.
    """

    one_device: MemoryPair
    pcie: MemoryPair
    nvlink: MemoryPair
    fused_all_reduce: FusedAllReduce | None = None


class Sampling(Section):
    """What the sampler takes for each of max_num_seqs x vocabulary logits [bytes].

    Attributes:
        default: the sampler that this engine runs unless it is told otherwise.
        torch: with torch's sort; `torch_few` below 128 sequences, where it sorts in another way.
        flashinfer: with FlashInfer's or Triton's kernels, which do not sort.
    """

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
    """The kernels of routed experts by how these are stored; two names where versions or backends differ.

    `fused_experts` holds a cache of max(2·I, H) and one of I elements for each routed row (vLLM,
    fused_moe.py and marlin_moe.py); `separate` 2·I, I and H (before pull request 13625); `modular` max(I, H)
    and max(2·I, H), which it keeps from the first layer on (modular_kernel.py, workspace_shapes). I: an expert's
    width on the device, H: the hidden size.

    Attributes:
        unquantized, float8, packed: by the dtype that experts are stored in; packed: integers of fewer bits.
        chunk_tokens: tokens that `fused_experts` and `separate` take at a time, except of packed experts.
    """

    unquantized: list[MoeKernel] = Field(min_length=1, max_length=2)
    float8: list[MoeKernel] = Field(min_length=1, max_length=2)
    packed: list[MoeKernel] = Field(min_length=1, max_length=2)
    chunk_tokens: Size | None = None


class Activation(Section):
    """What one step takes beside the tensors of the forward pass.

    Attributes:
        moe_kernels: of routed experts.
        sampler: bytes for each logit.
        latent_tokens: tokens of latents that the engine expands at once where attention is MLA; 0: none.
        encoder: whether the vision tower runs on its largest inputs before the pool is sized.
    """

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
    """Captured graphs.

    Attributes:
        inside_utilization: whether they count against the engine's share or come on top of it.
        fixed_bytes: taken whatever the model [bytes].
        bytes_per_layer: of one captured size and one layer [bytes].
        largest: the largest size that is captured [sequences]; above 16 every 8th, above 256 every 16th.
        twice: whether sizes that hold max_num_seqs sequences are captured a second time, attention included.
        none_of_dense: whether some versions count none of a model without experts.
    """

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

    Attributes:
        fixed: always.
        per_batched_token: for each token of a step.
        per_device: for each of tp x pp devices; of all devices where groups share experts.
        per_sequence: for each sequence of the largest graph.
        per_shared_sequence: the same on top, for each of the data-parallel groups that share experts.
        many_sequences: above so many sequences, `per_shared_sequence_of_many` comes on top of that.
        least: at least so much, on devices of `least_from` bytes and more.
        shrinks_with_tower: whether the share is smaller where a vision tower is loaded, by the tower's size.
    """

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
    """What tensor parallelism does where the engine has a choice.

    Attributes:
        vision: the tower divided by tp, or whole on every device.
    """

    retired: ClassVar[frozenset[str]] = frozenset({"replicated", "divided", "projector"})
    vision: Vision


class Engine(Section):
    """How a serving engine divides a device's memory.

    Attributes:
        share_of: what `utilization` is a share of: the `visible` memory, of which overhead is taken; or what is `free`
            before weights are loaded, where weights and cache alone count against it.
        utilization: the share by default; None where `reserve` says what it leaves.
        reserve: what the default share leaves, where that follows from device and step.
        block_size: tokens of a cache page; `block_size_mla` for multi-head latent attention.
        hybrid_groups: whether layers that cache by different spans share pages in groups of equal numbers of layers.
        devices: defaults by device, the first that holds.
        whole_prompts: whether a step holds a prompt of the whole context where that is longer than its tokens, up to
            `chunked_from` tokens of context (V0 without chunked prefill).
        chunked_from: context above which prompts are cut into steps.
        context_parallel: whether it divides the context of a sequence within a tensor-parallel group.
        uneven_experts: whether devices may hold different numbers of experts.
        absorbed_copies: whether MLA's up-projection is kept a second time: `always`, where it is stored `quantized`, or
            `never`.
        non_torch_bytes: by how devices are linked.
        cuda_graphs: captured graphs.
        activation: one step.
        assumed: what the constants rest on, each as `key: why`.
    """

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
