"""Engine profiles: the constants of a serving engine, each with its source or listed as assumed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from archcalc.files.loader import find, parse
from archcalc.files.model import Text
from archcalc.files.yaml_loader import read
from archcalc.hardware import Hardware
from archcalc.section import Section, Size
from archcalc.serving.deployment import Vision

FOLDER = "engines"
Share = Annotated[float, Field(gt=0, le=1)]


class Activation(Section):
    """What a profile run takes at its peak, and how many tokens and sequences a step holds.

    Attributes:
        max_num_batched_tokens: tokens of one step on large devices; `_small` on all others.
        max_num_seqs: sequences of one step on large devices; `_small` on all others.
        large_memory_bytes: visible memory from which a device counts as large [bytes].
        never_large: hardware names that count as small whatever their memory.
        bytes_per_token: peak of the profile run over its tokens [bytes].
    """

    max_num_batched_tokens: Size
    max_num_batched_tokens_small: Size
    max_num_seqs: Size
    max_num_seqs_small: Size
    large_memory_bytes: Size
    never_large: list[Text]
    bytes_per_token: NonNegativeInt

    def large(self, hardware: Hardware) -> bool:
        """Whether the engine picks its larger defaults on this device."""
        return hardware.memory_visible_bytes >= self.large_memory_bytes and hardware.name not in self.never_large

    def batched_tokens(self, hardware: Hardware) -> int:
        """Tokens of one step, by default [tokens]."""
        return self.max_num_batched_tokens if self.large(hardware) else self.max_num_batched_tokens_small

    def sequences(self, hardware: Hardware) -> int:
        """Sequences of one step, by default."""
        return self.max_num_seqs if self.large(hardware) else self.max_num_seqs_small


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
        utilization: share of the visible memory that the engine uses, by default.
        cuda_graphs_inside_utilization: whether CUDA graphs count against that share or come on top of it.
        block_size: tokens of a cache page; `block_size_mla` for multi-head latent attention.
        non_torch_bytes: contexts and communication buffers; `_one_device` where there is no other [bytes].
        cuda_graph_bytes: captured graphs [bytes].
        assumed: what the constants rest on, each as `key: why`.
    """

    retired: ClassVar[frozenset[str]] = frozenset({"kv_cache_dtypes", "fp8_ds_mla_bytes_per_layer", "measured"})
    kind: Literal["engine"]
    name: Text
    title: Text
    sources: dict[str, Text]
    utilization: Share
    cuda_graphs_inside_utilization: bool
    block_size: Size
    block_size_mla: Size
    non_torch_bytes: NonNegativeInt
    non_torch_bytes_one_device: NonNegativeInt
    cuda_graph_bytes: NonNegativeInt
    activation: Activation
    tensor_parallel: TensorParallel
    assumed: list[Text]


def load_engine(name_or_path: str = "vllm") -> Engine:
    """An engine profile by bundled name or path.

    Raises:
        InputError: no such file or name, or no YAML of ours.
        SpecError: a readable file that is no valid profile.
    """
    path = find(name_or_path, FOLDER)
    return parse(read(path), str(path), Engine)
