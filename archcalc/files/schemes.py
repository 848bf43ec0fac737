"""Schemes: how one weight is stored, as data. Each says in its docstring what it has been proven against."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from archcalc.files.scheme import Plain, Quantized, ScaleDtype, StoredDtype
from archcalc.files.schemes_float import Fp8Block, Mxfp4, Mxfp8, Nvfp4, Scaled
from archcalc.files.schemes_int import Awq, Bnb4, Bnb8, Gptq, Mlx, PackQuantized

__all__ = [
    "AnyScheme",
    "Awq",
    "Bnb4",
    "Bnb8",
    "Fp8Block",
    "Gptq",
    "Mlx",
    "Mxfp4",
    "Mxfp8",
    "Nvfp4",
    "PackQuantized",
    "Plain",
    "Quantized",
    "ScaleDtype",
    "Scaled",
    "Scheme",
    "StoredDtype",
]

AnyScheme = Plain | PackQuantized | Fp8Block | Scaled | Mxfp8 | Mxfp4 | Nvfp4 | Awq | Gptq | Mlx | Bnb4 | Bnb8
Scheme = Annotated[AnyScheme, Field(discriminator="scheme")]
