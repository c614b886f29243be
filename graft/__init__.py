"""Graft a new head onto a pretrained backbone: labelled photographs in, a promoted ONNX classifier out."""

import os

__version__ = "0.1.0"

# torch reads it at its first tensor. Without huge pages, half the time of a pass may go into page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
