"""ONNX export with preprocessing and calibration inside the file, and its comparison with torch."""
