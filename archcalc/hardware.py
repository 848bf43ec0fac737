"""Hardware files: one device as sold and as programs see it, its links, and its peak arithmetic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from archcalc.files.loader import bundled_names, find, parse
from archcalc.files.model import Text
from archcalc.files.yaml_loader import read
from archcalc.section import Section, Size

FOLDER = "hardware"
PeakDtype = Literal["bfloat16", "float16", "float8", "float4", "int8", "tfloat32", "float32"]


class Links(Section):
    """What one device sends in one direction [bytes/s]."""

    nvlink_bytes_per_s: Size
    pcie_bytes_per_s: Size
    network_bytes_per_s: Size


class Hardware(Section):
    """One accelerator.

    Attributes:
        memory_bytes: memory as sold, in decimal gigabytes [bytes].
        memory_visible_bytes: what a program is told that it has; engines take a share of this [bytes].
        memory_bandwidth: of the device's own memory [bytes/s].
        peak_flops: dense peak by dtype [FLOP/s]; for int8 integer operations.
        links: between devices of a node, to the host, to other nodes.
        devices_per_node: devices of the usual server.
        assumed: figures without a source, each as `key: why`.
    """

    kind: Literal["hardware"]
    name: Text
    title: Text
    sources: dict[str, Text]
    memory_bytes: Size
    memory_visible_bytes: Size
    memory_bandwidth: Size
    peak_flops: dict[PeakDtype, Size]
    links: Links
    devices_per_node: Size
    assumed: list[Text] = Field(default_factory=list)


def hardware_names() -> list[str]:
    """Names of the bundled hardware files."""
    return bundled_names(FOLDER)


def load_hardware(name_or_path: str) -> Hardware:
    """A hardware file by bundled name or path.

    Raises:
        InputError: no such file or name (the near miss is the hint), or no YAML of ours.
        SpecError: a readable file that is no valid hardware file.
    """
    path = find(name_or_path, FOLDER)
    return parse(read(path), str(path), Hardware)
