"""Hardware files: one device as sold and as programs see it, its links, and its peak arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from archcalc.errors import FieldError
from archcalc.files.loader import bundled_file, bundled_names, parse, text_of
from archcalc.files.model import Text
from archcalc.files.yaml_loader import read
from archcalc.section import About, Memory, Section, Size

FOLDER = "hardware"
Architecture = Literal["volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna3", "cdna4"]
PeakDtype = Literal["bfloat16", "float16", "float8", "float4", "int8", "tfloat32", "float32"]

_MEMORY_HINT = "write what programs see, such as memory_visible_bytes: 94.97GiB, or what is sold: memory_bytes: 96GB"


class Links(Section):
    """What one device sends in one direction [bytes/s]. Without NVLink `nvlink_bytes_per_s` is what PCIe carries."""

    about = About(
        "What one device sends in one direction",
        nvlink_bytes_per_s="To devices of the same node; what PCIe carries, where there is no faster link [bytes/s]",
        pcie_bytes_per_s="To the host [bytes/s]",
        network_bytes_per_s="To other nodes [bytes/s]",
    )

    nvlink_bytes_per_s: Size
    pcie_bytes_per_s: Size
    network_bytes_per_s: Size


class Host(Section):
    """The memory of a whole node's processors: its size [bytes], and what it can be read at [bytes/s]."""

    about = About(
        "The memory of a whole node's processors",
        memory_bytes="Its size, in bytes or as 2TB [bytes]",
        memory_bandwidth="What it can be read at [bytes/s]",
    )

    memory_bytes: Memory
    memory_bandwidth: Size


class Hardware(Section):
    """One accelerator. Its name and one of the memory keys are enough for a question about memory."""

    about = About(
        (
            "One accelerator: its memory as sold and as programs see it, its links, its peak arithmetic. Its name and "
            "one of the memory keys are enough for a question about memory"
        ),
        kind="What file this is",
        name="Short name, by which commands and reports call it",
        title="The device's name, as reports print it; left out: `name`",
        architecture="Of the device: the workspaces of a training stack differ by it; left out: the smallest ones",
        sources="Where the figures are from, each source under a name of its own",
        memory_bytes="Memory as sold, in bytes or as 96GB; needed where `memory_visible_bytes` is left out [bytes]",
        memory_visible_bytes=(
            "What a program is told that it has, in bytes or as 94.97GiB (torch.cuda.mem_get_info()[1], "
            "total_gpu_memory in a log of vLLM); engines take a share of this. Left out: `memory_bytes`, and reports "
            "say so [bytes]"
        ),
        memory_bandwidth="Of the device's own memory [bytes/s]",
        peak_flops="Dense peak by dtype; of int8 integer operations. `train` with offload asks for `bfloat16` [FLOP/s]",
        links=(
            "What one device sends in one direction. Left out: `serve` takes PCIe, and says so; `train` with offload "
            "asks for them"
        ),
        devices_per_node="GPUs of the usual server; reports say so where this default is taken [devices]",
        price_per_hour="What you pay for one device an hour, in the currency that you like",
        host="The memory of a node's processors",
        assumed="Figures without a source, each as `key: why`",
    )
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


def bundled_hardware() -> Iterator[Hardware]:
    """Every bundled device; no file of the working directory hides one."""
    for name in hardware_names():
        path = Path(bundled_file(name, FOLDER))
        yield parse(read(path), str(path), Hardware)


def load_hardware(name_or_path: str) -> Hardware:
    """A hardware file by bundled name or path.

    Raises:
        InputError: no such file or name (the near miss is the hint), or no YAML of ours.
        SpecError: a readable file that is no valid hardware file.
    """
    return parse(*text_of(name_or_path, FOLDER), Hardware)
