"""Operations on what layers leave behind: attention over depth instead of a sum."""

from __future__ import annotations

from archcalc.tape.dims import Dim, Term
from archcalc.tape.op import Save
from archcalc.tape.recorder import Recorder
from archcalc.tape.values import Storage, Tensor


class ResidualOperations(Recorder):
    """Attention residuals."""

    def attention_residual(self, x: Tensor, blocks: Tensor, names: tuple[str, str]) -> Tensor:
        """[T, h] and the outputs of N blocks [T, N, h] -> [T, h]: the sum of both, weighted by a softmax of scores.

        Weights: an RMSNorm of the sources, and a vector that scores them, 1 x h (arXiv:2603.15031). FLOPs: two products
        over N + 1 sources, 4·T·(N+1)·h. Saves x, the running sum; the blocks are kept by the layers that made them, and
        all else is computed again.
        """
        norm, proj = names
        (count, hidden) = blocks.features
        weights = (
            self.weight(proj, "weight", (Dim("1", 1),), (hidden,), "attention"),
            self.weight(norm, "weight", (hidden,), (), "norm"),
        )
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit(
            "attention_residual",
            proj,
            "attn_res",
            (x, blocks),
            y,
            weights=weights,
            flops=(Term(4, (*x.rows, Dim(f"({count.name}+1)", count.size + 1), hidden)),),
            counts_as="attention",
            saves=(Save(x.storage),),
            backward=2,
        )
        return y
