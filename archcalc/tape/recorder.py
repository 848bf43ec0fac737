"""The recorder under the tape: where in the model we are, its segments, weights and operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from archcalc.tape.dims import Dim, Dims, Number
from archcalc.tape.op import Cache, Exchange, FlopClass, Op, Save, Segment, Variant, WeightGradient, Work
from archcalc.tape.sites import SITES
from archcalc.tape.span import Span
from archcalc.tape.values import NormKind, Part, Role, Storage, Tensor, Weight
from archcalc.workload import Workload


class Recorder:
    """Recorder of one forward pass under a workload.

    Attributes:
        workload: how the model is run; blocks read phase, sequence and images from it.
        vision_tokens: new backbone tokens of each sequence beside the workload's text, once a tower has run.
        segments: the recorded segments, in forward order.
        abouts: what a module is for, by its path and the indices that it runs over.
        body: the module that holds the decoder's embedding, layers and last norm, below what is open around it.
        norm_kind: of the model's layers, for mixers that have norms of the same kind.
        rotary: whether the model's attention rotates queries and keys, unless a block says otherwise.
        shares_choice: whether layers attend to keys that an earlier layer's indexer chose.
        chosen: what was handed on last.
        remarks: what a reader of this pass should know, from the blocks, each once.
        assumed: what no source gives and its numbers rest on, each once.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.segments: list[Segment] = []
        self.abouts: dict[tuple[str, tuple[int, ...]], str] = {}
        self.body = "model"
        self.norm_kind: NormKind = "rms"
        self.rotary = True
        self.shares_choice = False
        self.chosen: Tensor | None = None
        self.remarks: dict[str, None] = {}
        self.assumed: dict[str, None] = {}
        self.dtype = "bfloat16"
        self.vision_tokens = 0
        self._names: list[str] = []
        self._purposes: list[Mapping[str, str]] = []
        self._segment: Segment | None = None
        self._indices: tuple[int, ...] = ()
        self._grad = True
        self._copies: dict[tuple[Storage, str], tuple[tuple[Variant, Storage], ...]] = {}

    # -- where we are ---------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self, name: str, about: str = "", purposes: Mapping[str, str] | None = None) -> Iterator[None]:
        """Prefix paths with `name`; `purposes` gives a sentence for each local name below it."""
        self._names.extend(name.split(".") if name else ())
        self._purposes.append(purposes or {})
        if about:
            self.abouts[self.path(""), self._indices] = about
        try:
            yield
        finally:
            self._purposes.pop()
            if name:
                del self._names[-len(name.split(".")) :]

    @contextmanager
    def segment(
        self,
        name: str,
        part: Part,
        x: Tensor | None = None,
        indices: tuple[int, ...] = (),
        *,
        about: str = "",
        scope: str | None = None,
        dtype: str | None = None,
    ) -> Iterator[Tensor]:
        """Open a segment; on entry `x` becomes a fresh storage, so each copy is charged its own input.

        `scope` prefixes paths instead of `name` (the head segment holds the final norm too). With `dtype` its input is
        cast to that, and its operations run in it.

        Yields:
            the entry tensor (an empty one where `x` is None: ids or pixels enter through an operation).
        """
        if self._segment is not None:
            raise AssertionError(f"segment {name} opened inside {self._segment.path}")
        entry = None if x is None else Storage(x.rows, x.features, dtype or x.dtype)
        outer = self.dtype
        path = self.path(name)
        self._indices = indices
        with self.scope(name if scope is None else scope, about):
            self._segment = Segment(path, indices, part, entry)
            self.segments.append(self._segment)
            self.dtype = dtype or outer
            try:
                if x is None or entry is None:
                    yield Tensor((), (), Storage((), (), self.dtype), requires_grad=False)
                else:
                    yield Tensor(x.rows, x.features, entry, requires_grad=x.requires_grad)
            finally:
                self._segment, self._indices = None, ()
                self.dtype = outer

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Operations inside reach no loss: they keep nothing for backward and have no backward FLOPs."""
        before, self._grad = self._grad, False
        try:
            yield
        finally:
            self._grad = before

    def remark(self, text: str) -> None:
        """Say something about this pass to whoever reads a report of it."""
        self.remarks[text] = None

    def assume(self, text: str) -> None:
        """Name what no source gives, for every report that rests on it."""
        self.assumed[text] = None

    def hand_on(self, x: Tensor) -> None:
        """Leave a result to later segments: it is kept for them."""
        self._current.handed = (*self._current.handed, x.storage)
        self.chosen = x

    def beside(self, x: Tensor) -> None:
        """Name what earlier segments left for this one beside the residual: it is there all the while."""
        self._current.beside = (*self._current.beside, x.storage)

    def path(self, name: str) -> str:
        """The full path of a local name."""
        return ".".join([*self._names, name] if name else self._names)

    def about(self, name: str) -> str:
        """The innermost block's sentence about a local name, or an empty string."""
        for purposes in reversed(self._purposes):
            if name in purposes:
                return purposes[name]
        return ""

    @property
    def _current(self) -> Segment:
        if self._segment is None:
            raise AssertionError("operation outside a segment")
        return self._segment

    # -- what operations use --------------------------------------------------------------------------------------

    def weight(
        self,
        name: str,
        suffix: str,
        out: Dims,
        into: Dims,
        role: Role,
        *,
        flat: bool = True,
        stack: Dims = (),
        active: Dim | None = None,
        dtype: str | None = None,
        trainable: bool = True,
        frozen: bool = False,
    ) -> Weight:
        """A weight at a local name of the current segment; with no name a bare parameter of the open module."""
        segment = self._current
        return Weight(
            self.path(name),
            suffix,
            out,
            into,
            flat=flat,
            stack=stack,
            active=active,
            role=role,
            part=segment.part,
            dtype=dtype or self.dtype,
            trainable=trainable,
            frozen=frozen,
            indices=segment.indices,
            about=self.about(name or suffix),
        )

    def record(self, op: Op) -> None:
        """Append an operation to the open segment."""
        if op.site not in SITES:
            raise AssertionError(f"unknown site {op.site!r} of {op.path}")
        self._current.ops.append(op)

    def _emit(
        self,
        kind: str,
        name: str,
        site: str,
        inputs: tuple[Tensor, ...],
        out: Tensor | None,
        *,
        temps: tuple[Storage, ...] = (),
        weights: tuple[Weight, ...] = (),
        flops: Number = (),
        counts_as: FlopClass = "linear",
        saves: tuple[Save, ...] = (),
        caches: tuple[Cache, ...] = (),
        backward: int = 0,
        weight_gradient: WeightGradient = "none",
        exchange: Exchange = "none",
        sums: bool = False,
        masks: tuple[Variant, ...] = (),
        works: tuple[Work, ...] = (),
        bases: tuple[Storage, ...] = (),
        span: Span | None = None,
        turned: int = 0,
    ) -> None:
        """Record an operation at a local name: storages of its tensors, what it makes beside its result in `temps`."""
        operands = tuple(t.storage for t in inputs)
        made = tuple(s for s in temps if s not in operands)
        outputs = made if out is None else (out.storage, *made)
        self.record(
            Op(
                kind=kind,
                path=self.path(name),
                site=site,
                inputs=operands,
                outputs=outputs,
                weights=weights,
                flops=flops,
                counts_as=counts_as,
                backward_factor=backward if self._grad else 0,
                saves=saves if self._grad else (),
                caches=caches,
                about=self.about(name),
                weight_gradient=weight_gradient if self._grad else "none",
                exchange=exchange,
                sums=sums,
                masks=masks,
                works=works,
                bases=bases,
                span=span,
                turned=turned,
            )
        )

    @property
    def length(self) -> int:
        """How many operations it has."""
        return sum(len(segment.ops) for segment in self.segments)

    def ops(self, part: Part) -> Iterator[Op]:
        """Every operation of a part, in forward order."""
        return (op for segment in self.segments if segment.part == part for op in segment.ops)

    def weights(self) -> list[Weight]:
        """Every weight once, in forward order."""
        seen: dict[int, Weight] = {}
        for segment in self.segments:
            for op in segment.ops:
                for w in op.weights:
                    seen.setdefault(id(w), w)
        return list(seen.values())
