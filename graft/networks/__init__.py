"""Backbones: their weights, their stages, what freezes in them, and what passes from stage to stage."""
