"""Training: loop, trainer, strategies, plan, recipe, cross-validation."""
