"""Vision towers, one a file. A spec's `vision` section is one of them, told by its `kind`."""

from archcalc.arch.vision.moonvit3d import MoonViT3D

Vision = MoonViT3D
"""All of them: with a second one `Annotated[MoonViT3D | Other, Field(discriminator="kind")]`."""
