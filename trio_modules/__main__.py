"""``python -m trio_modules``: the same as ``trio-modules``."""

from __future__ import annotations

import sys

from trio_modules._cli import main

if __name__ == "__main__":
    sys.exit(main())
