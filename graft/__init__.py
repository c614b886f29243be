"""Graft a new head onto a pretrained backbone: labelled photographs in, a promoted ONNX classifier out."""

import os

__version__ = "0.1.0"

# Libraries that report to their makers read these variables when they are imported. Here they are set before any of
# them: whatever imports a module of Graft imports this one first. Values that the user has set are respected.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "ZENML_ANALYTICS_OPT_IN": "false",
}.items():
    os.environ.setdefault(_name, _value)
