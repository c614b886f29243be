"""The pipelines: the wiring of the steps."""

import graft.integrations.logging_setup  # noqa: F401  before ZenML and MLflow are
