"""Functions about memory of devices: serving and training."""

from __future__ import annotations

from typing import Literal

from archcalc.api.arguments import File, Length, Memory, Overrides, Prices, file, read_one
from archcalc.api.counts import answered
from archcalc.api.report import Report
from archcalc.api.specs import SpecLike


def serve(
    spec: SpecLike,
    *,
    gpu: File | None = None,
    context: Length | None = None,
    batch: int = 1,
    as_: str = "released",
    gpus: int | Literal["auto"] | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int | Literal["all"] | None = None,
    dcp: int | None = None,
    kv_dtype: str = "bf16",
    block_size: Length | None = None,
    vision: Literal["replicated", "sharded"] | None = None,
    engine: File = "vllm",
    utilization: float | None = None,
    batched_tokens: Length | None = None,
    max_num_seqs: Length | None = None,
    sampler: Literal["torch", "flashinfer"] | None = None,
    eager: bool = False,
    language_only: bool = False,
    draft: File | None = None,
    mtp: bool = False,
    lora_rank: int = 0,
    offload_experts: int | Literal["host"] | None = None,
    overhead: Memory | None = None,
    price: Prices | None = None,
    log: File | None = None,
    within: str | None = None,
) -> Report:
    """Serving memory on each GPU: whether it fits, what is left for requests, and what would make it fit.

    A model that does not fit is an answer, not an error: `serve.fits` is False.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        gpu: a bundled GPU ("h200"), a hardware file, or "all" for a table of the bundled ones. It can't be left out.
        context: tokens a sequence [tokens], or text such as "128k"; the model's limit if left out.
        batch: sequences.
        as_: how weights are stored: `released`, `bf16`, `fp8`, or a bundled spec whose storage to use.
        gpus: GPUs, or `"auto"`: the fewest that fit.
        tp: tensor parallel devices.
        pp: pipeline stages.
        dp: data parallel replicas of attention.
        ep: expert parallel: 1 (experts divided like tp), N, or `"all"`.
        dcp: decode context parallel, within tp.
        kv_dtype: bf16, fp8, fp8_ds_mla or int8.
        block_size: tokens of a cache page [tokens].
        vision: the tower whole on each GPU, or divided by tp; the engine's way if left out.
        engine: vllm, vllm-0.8, vllm-v0, sglang, or a profile's file.
        utilization: the share of the memory that the engine takes, such as 0.9.
        batched_tokens: tokens of one step [tokens].
        max_num_seqs: sequences of one step.
        sampler: whose kernels sample: torch's sort, or others.
        eager: no CUDA graphs.
        language_only: load neither vision tower nor projector.
        draft: a smaller model that proposes tokens: a path or a name.
        mtp: the model's own prediction module proposes tokens.
        lora_rank: room for an adapter of this rank.
        offload_experts: routed experts of so many layers in the host's memory, or `"host"`: of all.
        overhead: instead of activation, CUDA graphs and non-torch [bytes], or text such as "8GiB".
        price: of one GPU an hour: {"h100": 2.1}. Sorts `gpu="all"`.
        log: a file of what vLLM or SGLang printed: the table `receipt` has each term of it beside ours.
        within: "5%": terms of the log that are further off are listed in `extra["beyond"]`.

    Raises:
        InputError: a spec that can't be read, or an argument that can't be used.
        SpecError: a file that is no valid spec.
    """
    return answered("serve", **locals())


def train(
    spec: SpecLike,
    *,
    plan: File,
    set: Overrides | None = None,
    rank: int | None = None,
    explain: str | None = None,
) -> Report:
    """Training memory on every pipeline rank at its worst moment.

    A plan that does not fit is an answer, not an error: `train.fits` is False.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        plan: a plan file, or a bundled plan (`"k2-pretrain"`).
        set: fields of the plan to override: {"parallel.pp": 8}, or ["parallel.pp=8"].
        rank: whose terms the table `terms` lists; the worst if left out.
        explain: what a term is made of: `activations` or `transient`.

    Raises:
        InputError: a file that can't be read, an argument that can't be used, or a plan that does not fit the model.
        SpecError: a file that is no valid spec or plan.
    """
    read_one("plan", file, plan)
    return answered("train", spec, plan=plan, set=set, rank=rank, explain=explain)
