"""The steps, one a file: call the domain, log, return artifacts."""

import graft.runtime.quiet  # noqa: F401  analytics off, before MLflow is imported
import materializers  # noqa: F401  ZenML finds them by type once they are imported
