"""Backbones and their pretrained weights, stages, freezing, LoRA adapters and preprocessing."""
