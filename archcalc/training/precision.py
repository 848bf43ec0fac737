"""What a plan says of weights, gradients and optimizer states: dtypes, sharding, and what no formula gives."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from archcalc.errors import FieldError
from archcalc.files.model import Text
from archcalc.limits import PREFETCH, field_beyond
from archcalc.section import About, Section, Size
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.optimizer import optimizer
from archcalc.units import parse_memory

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Plan dtypes in torch's spelling."""


class Precision(Section):
    """Dtypes of weights and gradients, and the optimizer by name. Megatron-LM's --fp16 accumulates gradients in fp16
    unless --accumulate-allreduce-grads-in-fp32 is given, its --bf16 in fp32 (training/arguments.py, validate_args)."""

    about = About(
        "Dtypes of weights and gradients, and the optimizer by name",
        params="Dtype of the weights (Megatron-LM: --bf16, --fp16)",
        grads=(
            "Dtype of the gradients' buffer (Megatron-LM: fp32 with --bf16; fp16 with --fp16, unless "
            "--accumulate-allreduce-grads-in-fp32; bf16 with --grad-reduce-in-bf16)"
        ),
        optimizer=(
            "A named set of states beside the weight: `adamw`, `adamw-no-master`, `adamw-bf16-moments`, "
            "`adamw-param-remainders`, `adamw-precision-aware`, `adam-8bit`, `muon`, `muon-bf16-momentum` or `sgd`; "
            "docs/training.md has their bytes"
        ),
        muon_layout=(
            "Who has Muon's states: `sliced`, matrices go to devices whole and all else in slices; `whole`, all "
            "parameters go whole, embedding and head among them"
        ),
        fp8=(
            "Recipe of the layers' linears where they multiply in FP8; needs fused kernels, not ZeRO-3 (Megatron-LM: "
            "--fp8-format with --fp8-recipe)"
        ),
        fp8_params=(
            "Whether their weights are held in FP8 in place of `params`; needs `fp8`, `params` in 16 bits and an "
            "optimizer with an fp32 master (Megatron-LM: --fp8-param-gather)"
        ),
    )

    params: Literal["bf16", "fp16", "fp32"]
    grads: Literal["bf16", "fp16", "fp32"]
    optimizer: Text
    muon_layout: Literal["sliced", "whole"] = "sliced"
    fp8: Literal["none", "tensorwise", "delayed", "blockwise", "mxfp8"] = "none"
    fp8_params: bool = False

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        optimizer(value)
        return value

    @property
    def item_bytes(self) -> tuple[int, int]:
        """Of a parameter and of its gradient [bytes]."""
        return ITEM_BYTES[DTYPES[self.params]], ITEM_BYTES[DTYPES[self.grads]]


class Fsdp(Section):
    """Fully sharded data parallelism as torch's FSDP2 does it."""

    about = About(
        (
            "Fully sharded data parallelism as torch's FSDP2 does it: parameters, gradients and states divided by "
            "rows, weights gathered group by group. Refused beside it is what is counted as Megatron-LM does it: "
            "`schedule.ep_overlap`, `precision.muon_layout: whole`, `memory.optimizer_offload`, `precision.fp8`; and "
            "`qlora`"
        ),
        reshard_after_forward=(
            "Whether gathered weights are freed after forward; null: torchtitan's policy, not under pp, and never "
            "head and last norm (torchtitan: fsdp_reshard_after_forward)"
        ),
        prefetch=(
            "Groups gathered ahead: 1 is torch's own order, more are explicit lists of so many (torch: "
            "set_modules_to_forward_prefetch)"
        ),
        param_dtype="Dtype in which weights are gathered (torchtitan: mixed_precision_param)",
        reduce_dtype="Dtype in which gradients are reduced (torchtitan: mixed_precision_reduce)",
        replicate=(
            "Copies of the whole, each sharded over the rest of the devices, HSDP (torchtitan: "
            "data_parallel_replicate_degree)"
        ),
    )

    reshard_after_forward: bool | None = None
    prefetch: Size = 1
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    reduce_dtype: Literal["bf16", "fp32"] = "fp32"
    replicate: Size = 1

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        if self.prefetch > PREFETCH.most:
            raise field_beyond(PREFETCH, self.prefetch, "prefetch")
        return self


class Memory(Section):
    """What no formula gives, and how weights' gradients reach their buffer. States that are offloaded are updated in
    host memory."""

    about = About(
        "What no formula gives, and how weights' gradients reach their buffer",
        fixed=(
            "Context, communicators and workspaces, with a unit such as 4GB; with a stack all but the stack's "
            "workspaces; 0GB for what torch itself allocates [bytes]"
        ),
        allocator_efficiency="Allocated over reserved memory, above 0; 1 for allocated bytes [share]",
        placeholder_grads=(
            "Whether a stand-in for each weight's gradient is cached (Megatron-LM core 0.14 and TransformerEngine "
            "2.10 on). Left out: the stack's, else true"
        ),
        gradient_accumulation_fusion=(
            "Whether products are added into the gradients' buffer; else the weight's gradient stands beside it "
            "(Megatron-LM: --no-gradient-accumulation-fusion). Left out: the stack's, else true"
        ),
        compute_utilization=(
            "Share of the peak FLOP/s that compute reaches, for hiding offload's copies alone; above 0 [share]"
        ),
        optimizer_offload=(
            "Share of the parameters whose optimizer states are in host memory (Megatron-LM: --optimizer-cpu-offload, "
            "--optimizer-offload-fraction) [share]"
        ),
    )

    fixed: Text
    allocator_efficiency: Annotated[float, Field(gt=0, le=1)]
    placeholder_grads: bool = True
    gradient_accumulation_fusion: bool = True
    compute_utilization: Annotated[float, Field(gt=0, le=1)] = 0.4
    optimizer_offload: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("fixed", mode="before")
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        if type(value) in (int, float):
            raise FieldError(f"fixed {value} has no unit", hint=f"write {value}GiB or {value}GB")
        return value

    @field_validator("fixed")
    @classmethod
    def _size(cls, value: str) -> str:
        parse_memory(value)
        return value

    @property
    def fixed_bytes(self) -> int:
        """`fixed` [bytes]."""
        return parse_memory(self.fixed)

    @property
    def efficiency(self) -> Fraction:
        """`allocator_efficiency`, exact."""
        return Fraction(Decimal(str(self.allocator_efficiency)))

    @property
    def optimizer_share(self) -> Fraction:
        """`optimizer_offload`, exact."""
        return Fraction(Decimal(str(self.optimizer_offload)))
