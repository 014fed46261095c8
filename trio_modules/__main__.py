"""The program: ``trio-modules``, and ``python -m trio_modules``, with all of its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trio_modules import _cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: the arguments, without the program's name; those of the process by default.
    """
    given = sys.argv[1:] if argv is None else argv
    more = [] if given and _cli.is_own(given[0]) else [_simulate()]
    return _cli.main(argv, more)


def _simulate() -> _cli.Command:
    # With `trio.testing` comes all of pytest where that is installed: a second, for which no
    # service should have to wait that is merely run.
    from trio_modules.testing import _command  # noqa: PLC0415

    return _cli.Command(
        "simulate",
        "run the app through days of outages in a moment, and look for broken promises",
        _command.USAGE,
        _command.add_options,
        _command.run,
        _command.MISTAKES,
        log_level="critical",
    )


if __name__ == "__main__":
    sys.exit(main())
