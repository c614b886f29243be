"""Graft a new head onto a pretrained backbone: labelled photographs in, a promoted ONNX classifier out."""

__version__ = "0.1.0"
