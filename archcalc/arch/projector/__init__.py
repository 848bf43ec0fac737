"""Projectors from a vision tower into the backbone, one a file. A spec's `projector` section is one of them."""

from typing import Annotated

from pydantic import Field

from archcalc.arch.projector.merger import Merger
from archcalc.arch.projector.patch_merger import PatchMerger

Projection = Annotated[PatchMerger | Merger, Field(discriminator="kind")]
"""All of them."""
