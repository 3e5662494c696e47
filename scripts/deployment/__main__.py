"""``python -m scripts.deployment``."""

import sys

from scripts.deployment.command import main

sys.exit(main(sys.argv[1:]))
