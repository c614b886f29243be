"""Device, precision, memory format and threads, and the benchmark that chooses them."""
