"""Whether what a backbone's rotary embedding is to turn can turn, and whether its scaling fits the longest context."""

from collections.abc import Iterator, Mapping

from archcalc.arch.attention.gqa import GQA
from archcalc.arch.block import Block
from archcalc.arch.layers import Place
from archcalc.arch.rope import RopeScaling, check_scaling, original_of
from archcalc.errors import FieldError


def check_rotation(
    theta: float | None, scaling: RopeScaling | None, attention: Mapping[str, Block], longest: int
) -> None:
    """Features that turn in pairs (RoFormer, arXiv:2104.09864, section 3.2.2), and a pretrained context of a scaling
    that is not past the longest one [tokens]. Raises FieldError."""
    check_scaling(theta, scaling)
    for name, block in attention.items():
        key = block.turning(theta is not None)
        size = 0 if key is None else getattr(block, key)
        if size % 2:
            raise FieldError(
                f"{key} {size} is odd: a rotary embedding turns features in pairs",
                ("attention", name, str(key)),
                "rope_theta",
            )
    for place, own in _scalings(scaling, attention):
        original = original_of(own)
        if original > longest:
            raise FieldError(
                f"original_max_position_embeddings {original} is more than max_position_embeddings {longest}:"
                " scaling stretches a context, it shortens none",
                (*place, "original_max_position_embeddings"),
                "max_position_embeddings",
            )


def _scalings(scaling: RopeScaling | None, attention: Mapping[str, Block]) -> Iterator[tuple[Place, RopeScaling]]:
    """Every scaling of a backbone, with its place."""
    if scaling is not None:
        yield ("rope_scaling",), scaling
    for name, block in attention.items():
        own = block.rope_parameters if isinstance(block, GQA) else None
        if own is not None and own.rope_scaling is not None:
            yield ("attention", name, "rope_parameters", "rope_scaling"), own.rope_scaling
