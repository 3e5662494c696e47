"""``python -m chatflow.admin``."""

from __future__ import annotations

import sys

from chatflow.admin import main

if __name__ == "__main__":
    sys.exit(main())
