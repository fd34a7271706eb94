"""``python -m worker.sandbox``."""

import sys

from worker.sandbox.command import main

sys.exit(main())
