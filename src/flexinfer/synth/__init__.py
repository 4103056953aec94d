"""Random-weight GGUF models of real shapes: right sizes and speeds, no meaning."""

from __future__ import annotations

from flexinfer.synth.blocks import QUANTS
from flexinfer.synth.shapes import PRESETS, Shape
from flexinfer.synth.write import write_model

__all__ = ["PRESETS", "QUANTS", "Shape", "write_model"]
