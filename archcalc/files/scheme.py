"""What every storage scheme has in common: dtypes, what is proven, and weights that stay as they are."""

from typing import ClassVar, Literal

from archcalc.errors import InputError
from archcalc.section import About, Section
from archcalc.tape import Stored, Weight, product

StoredDtype = Literal["bfloat16", "float16", "float32", "float8_e4m3fn", "int8"]
ScaleDtype = Literal[StoredDtype, "float8_e8m0fnu", "uint8"]
"""A scale that is a power of two has the eight bits of its exponent: e8m0, which many files call uint8."""


class Quantized(Section):
    """A scheme for the matrices of linears and embeddings; vectors and kernels are stored by the default.

    `missing` is what no published byte total has shown of the scheme; "" where one came out to the byte.
    """

    missing: ClassVar[str] = ""

    @property
    def unproven(self) -> str:
        """What is unproven about the bytes of this scheme, with these settings; "" of a proven one."""
        return self.missing


class Plain(Section):
    """Each weight as it is, in one dtype."""

    about = About(
        "Each weight as it is, in one dtype",
        scheme="Which scheme this is",
        dtype="Dtype of the stored weight",
    )

    scheme: Literal["plain"]
    dtype: StoredDtype

    @property
    def unproven(self) -> str:
        """Nothing: a shape and a dtype are all there is."""
        return ""

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The weight itself, in this dtype."""
        return (Stored(w.suffix, self.dtype, w.shape),)


def sizes(w: Weight) -> tuple[int, int]:
    """Outputs and inputs of a matrix, [o, i]."""
    return product(w.out), product(w.into)


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def groups(w: Weight, size: int | None) -> int:
    """Groups of inputs that share a scale, one for all without a size. Raises InputError for a group cut short."""
    _, inputs = sizes(w)
    return 1 if size is None else whole(w, inputs, "inputs", size, f"groups of {size}")


def whole(w: Weight, count: int, what: str, size: int, into: str) -> int:
    """How often `size` goes into the inputs or outputs of a weight. Raises InputError where it does not divide them."""
    if count % size:
        path = w.path.format(i=w.indices[0] if w.indices else 0, e=0)
        raise InputError(f"{path} has {count} {what}, which don't divide into {into}", value=size)
    return count // size


def one_of(size: int, known: tuple[int, ...], what: str) -> int:
    """A size that a real format has. Raises InputError for another."""
    if size not in known:
        raise InputError(f"{what} of {', '.join(map(str, known))}, not {size}", value=size)
    return size
