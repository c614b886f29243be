"""Predictions on labelled images: running a model, metrics, calibration."""
