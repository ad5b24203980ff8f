"""``python -m plaud_provider`` is ``plaud``."""

from __future__ import annotations

import sys

from plaud_provider.cli import main

if __name__ == "__main__":
    sys.exit(main())
