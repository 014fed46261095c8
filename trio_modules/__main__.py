"""The program: ``trio-modules``, and ``python -m trio_modules``, with all of its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trio_modules import _cli
from trio_modules.testing import _command

_SIMULATE = _cli.Command(
    "simulate",
    "run the app through days of outages in a moment, and look for broken promises",
    _command.USAGE,
    _command.add_options,
    _command.run,
    _command.MISTAKES,
    log_level="critical",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: the arguments, without the program's name; those of the process by default.
    """
    return _cli.main(argv, [_SIMULATE])


if __name__ == "__main__":
    sys.exit(main())
