"""The promotion gate, and the record of a registered model version."""
