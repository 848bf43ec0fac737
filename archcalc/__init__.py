"""archcalc: sizes model architectures from YAML specs, and proves its numbers."""

__version__ = "0.1.0"
