"""``python -m worker.sandbox``."""

import sys

from worker.sandbox.server import main

sys.exit(main())
