"""Vision towers, one a file. A spec's `vision` section is one of them, told by its `kind`."""

from typing import Annotated

from pydantic import Field

from archcalc.arch.vision.moonvit3d import MoonViT3D
from archcalc.arch.vision.vit import ViT

Vision = Annotated[MoonViT3D | ViT, Field(discriminator="kind")]
"""All of them."""
