"""``python -m scripts.deployment``."""

import signal
import sys

from scripts.deployment.command import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
