"""The pipeline steps, one per file: each calls the domain, logs, and returns its artifacts."""

import graft.integrations.logging_setup  # noqa: F401  before ZenML and MLflow are
import materializers  # noqa: F401  importing registers them with ZenML
