"""Files and tensors on disk that can always be recomputed."""
