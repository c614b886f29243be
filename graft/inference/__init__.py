"""Prediction with an exported model; imports onnxruntime, Pillow and NumPy only."""
