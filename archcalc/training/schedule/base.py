"""What a pipeline schedule is: the order in which each rank runs its chunks, and which stages those are.

A *chunk* is a piece of the model that a rank holds, a *stage* the same piece by its place in the whole model.
With PP ranks and VPP virtual stages a rank the model is cut into PP * VPP stages. Chunks are numbered from 0
on each rank, stages, ranks and micro-batches from 0 overall.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from archcalc.errors import InputError

from .patterns import OpKind, Phases, expanded


class Op(NamedTuple):
    """One unit of work on a rank.

    F is a forward, B a whole backward; split, it is I (gradient of the input) and later W (of the weights).
    """

    kind: OpKind
    chunk: int
    micro_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The sizes a schedule is laid out for. Any values can be held; Schedule.validate says which make sense.

    pp: pipeline ranks. vpp: virtual stages a rank. micro_batches: in one optimizer step.
    group: micro-batches that a chunk takes in a row before the next chunk does (None: pp).
    extra_warmup: forwards added to the warm-up of each rank, as overlapping expert communication needs.
    ep_overlap: whether behind the warm-up each forward runs beside the backward that follows it, layer by layer.
    """

    pp: int
    vpp: int = 1
    micro_batches: int
    group: int | None = None
    extra_warmup: int = 0
    ep_overlap: bool = False

    @property
    def group_size(self) -> int:
        """Micro-batches in a group, the default resolved."""
        return self.pp if self.group is None else self.group


class Schedule(ABC):
    """A pipeline schedule. Instances hold no state; there is one of each, in the registry of this package."""

    kind: ClassVar[str]  # its name in a plan
    virtual_stages: ClassVar[int | None] = 1  # the only vpp it works with; None: any
    copies: ClassVar[int] = 1  # ranks that hold each stage, and so its parameters and gradients
    splits_backward: ClassVar[bool] = False  # whether backwards are split into I and W
    takes_group: ClassVar[bool] = False
    takes_extra_warmup: ClassVar[bool] = False

    @abstractmethod
    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        """Everything `rank` runs in one optimizer step, in order and in short. The pipeline must be a valid one."""

    def order(self, pipeline: Pipeline, rank: int) -> tuple[Op, ...]:
        """The same written out: an operation for each micro-batch."""
        return tuple(
            Op(step.kind, step.chunk, self.micro_batch(step.chunk, nth))
            for step, nth in expanded(self.phases(pipeline, rank))
        )

    def micro_batch(self, chunk: int, nth: int) -> int:
        """The micro-batch that a chunk takes as its `nth`, both from 0."""
        return nth

    def warmup(self, pipeline: Pipeline, rank: int) -> int:
        """Forwards before a forward and a backward take turns; of the schedules that take a longer warm-up."""
        raise NotImplementedError

    def chunks_per_rank(self, vpp: int) -> int:
        """Chunks that a rank holds."""
        return vpp * self.copies

    def stages(self, pp: int, vpp: int) -> int:
        """Stages that the model is cut into."""
        return pp * vpp

    def stage(self, pp: int, rank: int, chunk: int) -> int:
        """The stage that a chunk of a rank is: chunk * pp + rank, unless a schedule says otherwise."""
        return chunk * pp + rank

    def held(self, pp: int, vpp: int, rank: int) -> tuple[int, ...]:
        """The stages that a rank holds, by chunk."""
        return tuple(self.stage(pp, rank, chunk) for chunk in range(self.chunks_per_rank(vpp)))

    def validate(self, pipeline: Pipeline) -> None:
        """Raise InputError if this schedule cannot run such a pipeline, saying why."""
        for name, value, least in (
            ("pp", pipeline.pp, 1),
            ("vpp", pipeline.vpp, 1),
            ("micro_batches", pipeline.micro_batches, 1),
            ("group", pipeline.group_size, 1),
            ("extra_warmup", pipeline.extra_warmup, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, it is {value}", value=value)
        self._validate_options(pipeline)

    def _validate_options(self, pipeline: Pipeline) -> None:
        if self.virtual_stages is not None and pipeline.vpp != self.virtual_stages:
            raise InputError(
                f"{self.kind} has {self.virtual_stages} virtual stage{'s' if self.virtual_stages > 1 else ''} a rank,"
                f" and vpp is {pipeline.vpp}",
                value=pipeline.vpp,
                hint=f"set vpp to {self.virtual_stages}, or use interleaved-1f1b, which takes any above 1",
            )
        if pipeline.group is not None and not self.takes_group:
            raise InputError(
                f"{self.kind} has no micro-batch groups",
                value=pipeline.group,
                hint="leave group out; interleaved-1f1b is the schedule that has them",
            )
        if pipeline.extra_warmup and not self.takes_extra_warmup:
            raise InputError(
                f"{self.kind} has a warm-up of fixed length",
                value=pipeline.extra_warmup,
                hint="leave extra_warmup out; 1f1b and interleaved-1f1b are the schedules that take it",
            )
        if pipeline.ep_overlap:
            self._validate_overlap(pipeline)

    def _validate_overlap(self, pipeline: Pipeline) -> None:
        if not self.takes_extra_warmup:
            raise InputError(
                f"{self.kind} does not run a forward beside a backward layer by layer",
                value=self.kind,
                hint="leave ep_overlap out; interleaved-1f1b, and 1f1b without a pipeline, are the schedules that do",
            )
        if pipeline.pp > 1 and pipeline.vpp == 1:
            raise InputError(
                "ep_overlap in a pipeline needs virtual stages (Megatron-LM asks for them): vpp is 1",
                value=pipeline.vpp,
                hint="set vpp above 1 with interleaved-1f1b, or pp to 1",
            )
        if not pipeline.extra_warmup:
            raise InputError(
                "ep_overlap needs a longer warm-up, so that a forward and the backward beside it don't wait for each"
                " other: extra_warmup is 0",
                value=0,
                hint="leave extra_warmup out, which makes it 1",
            )


class VShaped(Schedule):
    """Two chunks a rank: micro-batches go down the ranks through chunk 0 and back up through chunk 1.

    Rank 0 so holds the first and the last stage, and the last rank two neighbours.
    """

    virtual_stages = 2

    def stage(self, pp: int, rank: int, chunk: int) -> int:
        return rank if chunk == 0 else 2 * pp - 1 - rank
