"""The pipelines: wiring only."""

import graft.runtime.quiet  # noqa: F401  analytics off, before MLflow is imported
