"""Interleaved 1F1B with virtual stages (arXiv:2104.04473, section 2.2), in Megatron-LM's order.

Source: NVIDIA/Megatron-LM, megatron/core/pipeline_parallel/schedules.py: `get_schedule_table` (groups),
`get_pp_rank_microbatches` (warm-up) and the checks of `forward_backward_pipelining_with_interleaving`.
"""

from collections.abc import Iterator

from archcalc.errors import InputError

from .base import Pipeline, Schedule
from .patterns import Loop, OpKind, Phase, Phases, Run, Step, together


class Interleaved1F1B(Schedule):
    """Micro-batches pass in groups of G: each chunk takes a whole group, then the next chunk takes it.

    The warm-up of rank r is 2 (PP - 1 - r) + (VPP - 1) G, and one more if expert communication is overlapped.
    With one virtual stage nothing is interleaved: the order is that of 1F1B, and Megatron-LM runs 1F1B then.
    """

    kind = "interleaved-1f1b"
    virtual_stages = None
    takes_group = True
    takes_extra_warmup = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        slots, warmup = pipeline.micro_batches * pipeline.vpp, self.warmup(pipeline, rank)

        def turns(start: int, stop: int) -> list[Phase]:
            forwards = _slots("F", pipeline, warmup + start, min(warmup + stop, slots))
            return together(forwards, _slots("B", pipeline, start, stop))

        # From a group's forwards to the next one's all goes on as before, as long as groups are full.
        around = pipeline.group_size * pipeline.vpp
        full = pipeline.micro_batches // pipeline.group_size * around
        times = max(0, full - warmup) // around
        before: Phases = together(_slots("F", pipeline, 0, min(warmup, slots)))
        steady: Phases = [Loop(times, tuple(turns(0, around)))] if times else []
        return [*before, *steady, *turns(times * around, slots)]

    def warmup(self, pipeline: Pipeline, rank: int) -> int:
        hops = pipeline.pp - 1 - rank
        warmup = hops + pipeline.extra_warmup
        if pipeline.vpp > 1:
            warmup += hops + (pipeline.vpp - 1) * pipeline.group_size
        return warmup

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


def _slots(kind: OpKind, pipeline: Pipeline, start: int, stop: int) -> Iterator[Run]:
    """Forwards or backwards from one place in their order to another, the same on every rank: group by group, and in
    it chunk by chunk. The last group may be smaller."""
    vpp, group = pipeline.vpp, pipeline.group_size
    full = pipeline.micro_batches // group * group * vpp
    while start < stop:
        size, before = (group, 0) if start < full else (pipeline.micro_batches % group, full)
        chunk, ran = divmod((start - before) % (size * vpp), size)
        times = min(size - ran, stop - start)
        yield times, Step(kind, chunk if kind == "F" else vpp - 1 - chunk)
        start += times
