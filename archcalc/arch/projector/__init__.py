"""Projectors from a vision tower into the backbone, one a file. A spec's `projector` section is one of them."""

from archcalc.arch.projector.patch_merger import PatchMerger

Projection = PatchMerger
"""All of them: with a second one `Annotated[PatchMerger | Other, Field(discriminator="kind")]`."""
