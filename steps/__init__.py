"""The steps, one a file: call the domain, log, return artifacts."""

import graft.runtime.quiet
import materializers  # noqa: F401  ZenML finds them by type once they are imported
