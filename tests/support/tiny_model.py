"""What the fixture `tiny_model` is: a preset and a quantisation to the path of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TinyModel = Callable[..., Path]
