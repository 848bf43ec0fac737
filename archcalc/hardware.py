"""Hardware files: one device as sold and as programs see it, its links, and its peak arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from archcalc.errors import FieldError
from archcalc.files.loader import bundled_names, parse, text_of
from archcalc.files.model import Text
from archcalc.section import Memory, Section, Size

FOLDER = "hardware"
Architecture = Literal["volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna3", "cdna4"]
PeakDtype = Literal["bfloat16", "float16", "float8", "float4", "int8", "tfloat32", "float32"]

_MEMORY_HINT = "write what programs see, such as memory_visible_bytes: 94.97GiB, or what is sold: memory_bytes: 96GB"


class Links(Section):
    """What one device sends in one direction [bytes/s]. Without NVLink `nvlink_bytes_per_s` is what PCIe carries."""

    nvlink_bytes_per_s: Size
    pcie_bytes_per_s: Size
    network_bytes_per_s: Size


class Host(Section):
    """The memory of a whole node's processors: its size [bytes], and what it can be read at [bytes/s]."""

    memory_bytes: Memory
    memory_bandwidth: Size


class Hardware(Section):
    """One accelerator. Its name and one of the memory keys are enough for a question about memory.

    Attributes:
        title: as reports print it; `name` where it is left out.
        architecture: of the device, where a training stack's workspaces differ by it.
        memory_bytes: memory as sold, in decimal gigabytes [bytes], or text with a unit such as 96GB.
        memory_visible_bytes: what a program is told that it has; engines take a share of this [bytes], or text with a
            unit such as 94.97GiB. `memory_bytes` where it is left out.
        memory_bandwidth: of the device's own memory [bytes/s].
        peak_flops: dense peak by dtype [FLOP/s]; for int8 integer operations.
        links: between devices of a node, to the host, to other nodes.
        devices_per_node: devices of the usual server.
        price_per_hour: what you pay for one device, in the currency that you like.
        host: the node's own memory.
        assumed: figures without a source, each as `key: why`.
    """

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["memory_visible_bytes"]}, {"required": ["memory_bytes"]}]}
    )
    kind: Literal["hardware"]
    name: Text
    title: Text = Field(default_factory=str)
    architecture: Architecture | None = None
    sources: dict[str, Text] = Field(default_factory=dict)
    memory_bytes: Memory | None = None
    memory_visible_bytes: Memory = Field(default_factory=int)
    memory_bandwidth: Size | None = None
    peak_flops: dict[PeakDtype, Size] = Field(default_factory=dict)
    links: Links | None = None
    devices_per_node: Size = 8
    price_per_hour: float | None = Field(default=None, gt=0)
    host: Host | None = None
    assumed: list[Text] = Field(default_factory=list)

    @model_validator(mode="after")
    def _filled(self) -> Self:
        """What is left out and follows from the rest; `model_fields_set` still knows what was given."""
        if not self.memory_visible_bytes:
            if self.memory_bytes is None:
                raise FieldError("missing key `memory_visible_bytes` or `memory_bytes`", "name", hint=_MEMORY_HINT)
            object.__setattr__(self, "memory_visible_bytes", self.memory_bytes)
        for key in ("memory_bytes", "memory_visible_bytes"):
            size = getattr(self, key)
            if size is not None and size < 1 << 20:
                raise FieldError(f"{key} is only {size:,} bytes", key, hint="say which unit: 80GiB or 80GB")
        if not self.title:
            object.__setattr__(self, "title", self.name)
        return self

    @property
    def defaults(self) -> list[str]:
        """What stands in for keys that the file leaves out, each as `key: what`."""
        lines = {
            "memory_visible_bytes": "not given, taken as memory_bytes",
            "devices_per_node": f"not given, taken as {self.devices_per_node}",
        }
        return [f"{key}: {line}" for key, line in lines.items() if key not in self.model_fields_set]

    @property
    def assumptions(self) -> list[str]:
        """All that is assumed of this device: what the file says of itself, and what it leaves out."""
        return [*self.assumed, *self.defaults]

    @property
    def nvlink(self) -> bool | None:
        """Whether devices of a node have faster links than PCIe between them; None where the file doesn't say."""
        return None if self.links is None else self.links.nvlink_bytes_per_s > self.links.pcie_bytes_per_s

    def nodes(self, devices: int) -> int:
        """How many servers so many devices are in."""
        return -(-devices // self.devices_per_node)

    def is_named(self, words: Iterable[str]) -> bool:
        """Whether any of some lower-case words stands in the name or title, as engines ask for `"a100" in name`."""
        named = f"{self.name} {self.title}".lower()
        return any(word in named for word in words)


def hardware_names() -> list[str]:
    """Names of the bundled hardware files."""
    return bundled_names(FOLDER)


def load_hardware(name_or_path: str) -> Hardware:
    """A hardware file by bundled name or path.

    Raises:
        InputError: no such file or name (the near miss is the hint), or no YAML of ours.
        SpecError: a readable file that is no valid hardware file.
    """
    return parse(*text_of(name_or_path, FOLDER), Hardware)
