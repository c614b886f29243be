"""``python -m graft.cli`` is ``graft``."""

import sys

from graft.cli.main import main

sys.exit(main())
