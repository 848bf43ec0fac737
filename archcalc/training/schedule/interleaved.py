"""Interleaved 1F1B with virtual stages (arXiv:2104.04473, section 2.2), in Megatron-LM's order.

Source: NVIDIA/Megatron-LM, megatron/core/pipeline_parallel/schedules.py: `get_schedule_table` (groups),
`get_pp_rank_microbatches` (warm-up) and the checks of `forward_backward_pipelining_with_interleaving`.
"""

from functools import lru_cache

from archcalc.errors import InputError

from .base import Op, Pipeline, Schedule
from .patterns import alternate


class Interleaved1F1B(Schedule):
    """Micro-batches pass in groups of G: each chunk takes a whole group, then the next chunk takes it.

    The warm-up of rank r is 2 (PP - 1 - r) + (VPP - 1) G, and one more if expert communication is overlapped.
    With one virtual stage nothing is interleaved: the order is that of 1F1B, and Megatron-LM runs 1F1B then.
    """

    kind = "interleaved-1f1b"
    virtual_stages = None
    takes_group = True
    takes_extra_warmup = True

    def order(self, pipeline: Pipeline, rank: int) -> tuple[Op, ...]:
        forwards, backwards = _grouped(pipeline.vpp, pipeline.micro_batches, pipeline.group_size)
        return alternate(forwards, backwards, warmup=self.warmup(pipeline, rank))

    def warmup(self, pipeline: Pipeline, rank: int) -> int:
        hops = pipeline.pp - 1 - rank
        warmup = hops + pipeline.extra_warmup
        if pipeline.vpp > 1:
            warmup += hops + (pipeline.vpp - 1) * pipeline.group_size
        return warmup

    def period(self, pipeline: Pipeline) -> int | None:
        return pipeline.group_size

    def validate(self, pipeline: Pipeline) -> None:
        super().validate(pipeline)
        pp, vpp, micro_batches, group = pipeline.pp, pipeline.vpp, pipeline.micro_batches, pipeline.group_size
        if pp == 1 and vpp > 1:
            raise InputError(
                f"virtual stages need a pipeline: vpp is {vpp} and pp is 1",
                value=vpp,
                hint="set vpp to 1, or pp above 1",
            )
        if vpp == 1:
            return
        if group < pp:
            raise InputError(
                f"a group of {group} micro-batches is smaller than pp {pp}: the next chunk would wait for "
                "its first micro-batch to come through the last rank",
                value=group,
                hint=f"set group to at least {pp}, or leave it out",
            )
        if group > micro_batches:
            raise InputError(
                f"a group of {group} micro-batches is larger than the step, which has {micro_batches}",
                value=group,
                hint=f"raise the global batch to {group} micro-batches or more a pipeline, or lower pp",
            )
        if 0 < micro_batches % group < pp:
            raise InputError(
                f"{micro_batches} micro-batches in groups of {group} leave a last group of "
                f"{micro_batches % group}, smaller than pp {pp}: its chunks would wait for each other",
                value=micro_batches,
                hint=f"make the micro-batches a multiple of {group}, or the rest at least {pp}",
            )


@lru_cache(maxsize=256)
def _grouped(vpp: int, micro_batches: int, group: int) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """All forwards and all backwards in order, the same on every rank. The last group may be smaller."""
    slots = [
        (chunk, micro_batch)
        for start in range(0, micro_batches, group)
        for chunk in range(vpp)
        for micro_batch in range(start, min(start + group, micro_batches))
    ]
    forwards = tuple(Op("F", chunk, micro_batch) for chunk, micro_batch in slots)
    backwards = tuple(Op("B", vpp - 1 - chunk, micro_batch) for chunk, micro_batch in slots)
    return forwards, backwards
