"""A syslog collector made of modules.

Start it with ``trio-modules run examples/syslog_hub/app.py:app``; it is set up by environment
variables.  Or name the function and give it arguments:
``trio-modules run examples/syslog_hub/app.py:make_app -- --help``.
"""

import argparse
import os
from collections.abc import Callable
from math import inf
from pathlib import Path

from alerts import Alerts
from console import Console
from framing import DEFAULT_LIMIT
from receiver import Receiver
from report import Report
from retention import Retention
from stats import Stats
from store import Store

from trio_modules import App

__all__ = ["app", "assemble", "make_app", "parser"]


def make_app(args: list[str]) -> App:
    """Return the hub that `args` describe."""
    return assemble(parser().parse_args(args))


def assemble(
    settings: argparse.Namespace,
    make_store: Callable[..., Store] = Store,
    make_console: Callable[..., Console] = Console,
    make_report: Callable[..., Report] = Report,
) -> App:
    """Return the hub with these settings; a simulation makes some modules in its own way."""
    # The receiver has the event that the others hook, and starts after them and stops before.
    receiver = Receiver(
        depends_on=["store"],
        wants=["alerts", "console", "stats"],
        host=settings.host,
        udp_port=settings.udp_port,
        tcp_port=settings.tcp_port,
        max_message=settings.max_message,
    )
    store = make_store(receiver.message, settings.database, queue=settings.queue)
    alerts = Alerts(receiver.error, limit=settings.error_limit, window=settings.error_window)
    console = make_console(receiver.message)
    stats = Stats(receiver.message)
    retention = Retention(store, settings.keep_days)
    report = make_report(store, settings.report)
    modules = [store, alerts, console, stats, receiver, retention, report]
    return App(*modules, name="syslog_hub")


def parser() -> argparse.ArgumentParser:
    """Return the parser; what isn't in the arguments it takes from the environment."""
    parser = argparse.ArgumentParser(prog="syslog_hub", description="a syslog collector")

    def option(
        name: str, convert: Callable[[str], object], default: object, description: str
    ) -> None:
        variable = "SYSLOG_HUB_" + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}",
            type=convert,
            default=os.environ.get(variable, str(default)),
            help=f"{description} (environment: {variable}, else {default})",
        )

    option("database", Path, "syslog.db", "the SQLite file")
    option("host", str, "127.0.0.1", "the address to listen on")
    port = number(int, 0, 65_535)
    option("udp-port", port, 5514, "0 takes any that is free")
    option("tcp-port", port, 5514, "0 takes any that is free")
    option("max-message", number(int, 1), DEFAULT_LIMIT, "bytes; what is longer is cut")
    option("queue", number(int, 1), 10_000, "messages that may wait to be written")
    option("error-limit", number(int, 0), 10, "more errors than that are a burst")
    option("error-window", number(float, 0), 60, "seconds in which errors are counted")
    option("keep-days", number(float, 0), 30, "days for which messages are kept; 0: for ever")
    option("report", str, "10 0 * * *", "when the day before is summarised, as a cron line in UTC")
    return parser


def number(
    kind: type[int] | type[float], minimum: float, maximum: float = inf
) -> Callable[[str], float]:
    """Return a function that reads a number and checks its range."""

    def number(text: str) -> float:
        value = kind(text)
        if not minimum <= value <= maximum:  # as it isn't with NaN, either
            raise argparse.ArgumentTypeError(f"out of range: {text!r}")
        return value

    return number


app = make_app([])
