"""The app as a program: exit codes, signals, forced exits, and `serve` in a foreign run."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
import trio
from lifecycle_helpers import Trace, raising, stubborn
from process_helpers import Output, python, run_python
from trio.testing import assert_checkpoints

from trio_modules import App, CleanExit, Module, StartError, run, serve

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from trio.testing import MockClock

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
ALL = (*ENDING, signal.SIGUSR1)


class Outcome(BaseException):
    """Stand for what a test framework raises to end a test."""


PRELUDE = """\
import hashlib, sys, threading, time, trio
from trio_modules import App, Module, Restart, run

def say(text):
    print(text, flush=True)

async def fail():
    raise OSError("the disk is gone")

"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a program and returns its path."""

    def write(source: str) -> Path:
        path = tmp_path / "service.py"
        path.write_text(PRELUDE + dedent(source))
        return path

    return write


# --- exit codes of real processes --------------------------------------------------------------

ONE_MODULE = """
db = Module("db", restart=Restart(max_restarts=0))
app = App(db)

async def end():
    app.request_shutdown("done")

async def end_with_3():
    app.exit_code = 3
    app.request_shutdown("done", exit_code=None)

async def end_with_4():
    app.request_shutdown("done", exit_code=4)

async def fail_with_5():
    raise SystemExit(5)

async def fail_with_6():
    app.exit_code = 6
    raise SystemExit(5)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("db.worker(end)", 0),
        ("app = App(command=trio.lowlevel.checkpoint)", 0),
        ("db.worker(end_with_3)", 3),
        ("db.worker(end_with_4)", 4),
        ("db.worker(fail_with_5)", 5),
        ("db.worker(fail_with_6)", 6),
    ],
)
async def test_the_exit_code_of_a_quiet_end(
    program: Callable[[str], Path], work: str, code: int
) -> None:
    """0, app.exit_code or that of SystemExit; the first that is set, and nothing on stderr."""
    ended = await run_python(program(f"{ONE_MODULE}\n{work}\nsys.exit(run(app))\n"))
    assert ended.code == code
    assert "Traceback" not in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    "failure",
    [
        "app = App(prep=fail)",
        "db.on_prep(fail)",
        "db.on_start(fail)",
        "db.service_worker(fail, restart=Restart(max_restarts=0))",
        "app = App(command=fail)",
        "db.worker(end); db.on_stop(fail)",
    ],
)
async def test_the_exit_code_of_a_failure(program: Callable[[str], Path], failure: str) -> None:
    """a failed prep, start, command or stop and a crash exit with 1 and say why on stderr."""
    ended = await run_python(program(f"{ONE_MODULE}\n{failure}\nsys.exit(run(app))\n"))
    assert ended.code == 1
    assert "Traceback" in ended.stderr
    assert "the disk is gone" in ended.stderr


@pytest.mark.process
async def test_an_exit_code_that_was_set_wins_against_a_failure(
    program: Callable[[str], Path],
) -> None:
    """app.exit_code is the exit code of a failed program, too."""
    ended = await run_python(
        program(f"{ONE_MODULE}\ndb.worker(end_with_3)\ndb.on_stop(fail)\nsys.exit(run(app))\n")
    )
    assert ended.code == 3
    assert "the disk is gone" in ended.stderr


# --- every signal in every phase ---------------------------------------------------------------

PHASES = """
phase = sys.argv[1]
base, top = Module("base"), Module("top", depends_on=["base"])
app = App(base, top)

@base.on_start
async def start_base():
    say("base started")

@base.on_stop
async def stop_base():
    say("base stopped")

@top.on_start
async def start_top():
    if phase == "start":
        say("ready")
        await trio.sleep_forever()
    say("top started")

@top.worker
async def work():
    await app.started.wait()
    if phase == "stop":
        app.request_shutdown()
    else:
        say("ready")

@top.on_stop
async def stop_top():
    if phase == "stop":
        say("ready")
        await trio.to_thread.run_sync(sys.stdin.readline)
    say("top stopped")

sys.exit(run(app))
"""


@pytest.mark.process
@pytest.mark.parametrize("number", ENDING)
async def test_a_signal_while_running(
    program: Callable[[str], Path], number: signal.Signals
) -> None:
    """each of the signals stops a running program in order, exit code 0, without a traceback."""
    async with python(program(PHASES), "run") as service:
        await service.ready()
        service.send(number)
        assert await service.exit_code() == 0
    assert service.stdout.lines == [
        "base started",
        "top started",
        "ready",
        "top stopped",
        "base stopped",
    ]
    assert "Traceback" not in service.stderr.text


@pytest.mark.process
@pytest.mark.parametrize("number", ENDING)
async def test_a_signal_during_the_start(
    program: Callable[[str], Path], number: signal.Signals
) -> None:
    """what is starting is cancelled, what had started is stopped, and the exit code is 0."""
    async with python(program(PHASES), "start") as service:
        await service.ready()
        service.send(number)
        assert await service.exit_code() == 0
    assert service.stdout.lines == ["base started", "ready", "base stopped"]
    assert "Traceback" not in service.stderr.text


@pytest.mark.process
@pytest.mark.parametrize("number", ENDING)
async def test_a_signal_during_the_stop(
    program: Callable[[str], Path], number: signal.Signals
) -> None:
    """it says how many more force the exit, and the stop goes on in order."""
    async with python(program(PHASES), "stop") as service:
        await service.ready()
        service.send(number)
        await service.stderr.find(r"\b4 more\b")
        await service.tell("go on")
        assert await service.exit_code() == 0
    assert service.stdout.lines[-2:] == ["top stopped", "base stopped"]
    assert "Traceback" not in service.stderr.text


@pytest.mark.process
async def test_a_signal_does_not_hide_a_failed_stop(program: Callable[[str], Path]) -> None:
    """a program that was told to leave and can't do so cleanly exits with 1."""
    source = """
    db = Module("db", stop=fail)
    app = App(db)

    @db.worker
    async def work():
        await app.started.wait()
        say("ready")

    sys.exit(run(app))
    """
    async with python(program(source)) as service:
        await service.ready()
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 1
    assert "the disk is gone" in service.stderr.text


# --- the fifth signal --------------------------------------------------------------------------

HANGING = """
place, how = sys.argv[1:3]
base, top = Module("base"), Module("top", depends_on=["base"])
app = App(base, top)

async def wait_for_ever():
    with trio.CancelScope(shield=True):
        say("ready")
        await trio.sleep_forever()

async def sleep_in_the_loop():
    say("ready")
    time.sleep(600)

async def spin():
    while True:
        pass

async def compute():  # without the lock of the interpreter, and deaf to signals
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

async def churn():
    with trio.CancelScope(shield=True):
        while True:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(trio.lowlevel.checkpoint)

hang = globals()[how]

@top.worker
async def end():
    await app.started.wait()
    if place == "stop":
        app.request_shutdown()

if place == "start":
    top.on_start(hang)
if place == "worker":
    top.worker(hang)
if place == "stop":
    top.on_stop(hang)

sys.exit(run(app, shutdown_timeout=float(sys.argv[3])))
"""


async def wait_for_warning(stderr: Output, more: int) -> None:
    await stderr.find(rf"\b{more} more\b")


@pytest.mark.process
@pytest.mark.parametrize("place", ["start", "worker"])
@pytest.mark.parametrize("how", ["wait_for_ever", "sleep_in_the_loop"])
async def test_the_fifth_signal_forces_the_exit(
    program: Callable[[str], Path], place: str, how: str
) -> None:
    """it prints the task tree and exits with 1, even if the loop is blocked; all signals count."""
    async with python(program(HANGING), place, how, 600) as service:
        await service.ready()
        service.send(signal.SIGTERM)
        service.send(signal.SIGINT)
        for number, more in ((signal.SIGQUIT, 3), (signal.SIGHUP, 2), (signal.SIGTERM, 1)):
            await wait_for_warning(service.stderr, more)
            service.send(number)
        assert await service.exit_code() == 1
    assert_shows_the_tree(service.stderr.text, how)


def assert_shows_the_tree(text: str, function: str) -> None:
    """Every module and, in its task's stack, the function that hangs."""
    assert "base" in text
    assert "top" in text
    assert f"in {function}" in text


@pytest.mark.process
@pytest.mark.parametrize("how", ["wait_for_ever", "sleep_in_the_loop"])
async def test_the_fifth_signal_forces_the_exit_of_a_stop(
    program: Callable[[str], Path], how: str
) -> None:
    """signals count whatever began the shutdown: five of them force the exit of a hanging stop."""
    async with python(program(HANGING), "stop", how, 600) as service:
        await service.ready()
        for more in (4, 3, 2, 1):
            service.send(signal.SIGINT)
            await wait_for_warning(service.stderr, more)
        service.send(signal.SIGINT)
        assert await service.exit_code() == 1
    assert_shows_the_tree(service.stderr.text, how)
    assert "STOPPING" in service.stderr.text


@pytest.mark.process
async def test_the_exit_is_forced_though_nobody_reads_stderr(
    program: Callable[[str], Path],
) -> None:
    """a pipe that is full, which may be what blocks the loop, can't keep the process alive."""
    source = """
    import os
    db = Module("db")
    app = App(db)

    @db.worker
    async def log():
        os.set_blocking(2, False)
        try:
            while True:
                os.write(2, bytes(4096))
        except BlockingIOError:
            os.set_blocking(2, True)
        say("ready")
        app.request_shutdown()

    @db.on_stop
    async def stop():
        time.sleep(600)

    sys.exit(run(app, shutdown_timeout=0.2))
    """
    async with python(program(source), read_stderr=False) as service:
        await service.ready()
        assert await service.exit_code() == 1


BUFFERED = """
import logging, logging.handlers, os
db = Module("db")
app = App(db)
log = logging.FileHandler(sys.argv[1])
logging.getLogger("late").addHandler(logging.handlers.MemoryHandler(100, target=log))

@db.on_stop
async def stop():
    logging.getLogger("late").warning("logged")
    if sys.argv[2] == "blocked pipe":
        sys.stdout = os.fdopen(os.pipe()[1], "w")
        sys.stdout.write("x" * 1_000_000)
    print("printed")
    time.sleep(600)

@db.worker
async def end():
    app.request_shutdown()

sys.exit(run(app, shutdown_timeout=0.2))
"""


@pytest.mark.process
@pytest.mark.parametrize("stdout", ["pipe", "blocked pipe"])
async def test_a_forced_exit_writes_what_is_in_the_buffers(
    program: Callable[[str], Path], tmp_path: Path, stdout: str
) -> None:
    """of stdout, of the logs; and it doesn't wait for a stdout that nobody reads."""
    log = tmp_path / "log"
    ended = await run_python(program(BUFFERED), log, stdout)
    assert ended.code == 1
    assert log.read_text() == "logged\n"
    if stdout == "pipe":
        assert ended.stdout == "printed\n"


CTRL_C = """
import signal
place = sys.argv[1]
db = Module("db")
web = Module("web", depends_on=[db])
app = App(db, web)

async def here(name):
    if name == place:
        print("ready\\n", end="", flush=True)  # one write, which Ctrl-C can't split
        await trio.sleep_forever()

web.on_prep(here, "prep")
web.on_start(here, "start")
web.on_stop(here, "stop")

@db.on_stop
async def stop():
    say("db stopped")

async def main():
    try:
        async with app:
            await here("body")
    finally:
        say("left")

# A shell that runs the tests in the background has its children ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
trio.run(main)
"""


@pytest.mark.process
@pytest.mark.parametrize("place", ["prep", "start", "body", "stop"])
async def test_ctrl_c_without_run(program: Callable[[str], Path], place: str) -> None:
    """in a plain trio.run it reaches the block's caller, after everything stopped in order."""
    async with python(program(CTRL_C), place) as service:
        await service.ready()
        service.send(signal.SIGINT)
        await service.exit_code()
    stopped = [] if place == "prep" else ["db stopped"]
    assert service.stdout.lines == ["ready", *stopped, "left"]
    assert service.stderr.lines[-1] == "KeyboardInterrupt"


# --- the shutdown's time limit -----------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("how", ["wait_for_ever", "sleep_in_the_loop", "spin", "compute", "churn"])
async def test_the_shutdown_timeout_forces_the_exit(
    program: Callable[[str], Path], how: str
) -> None:
    """it prints the task tree and exits with 1, whatever the loop does or doesn't do."""
    ended = await run_python(program(HANGING), "stop", how, 0.2)
    assert ended.code == 1
    assert_shows_the_tree(ended.stderr, how)
    assert "STOPPING" in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize("place", ["start", "worker"])
@pytest.mark.parametrize("how", ["wait_for_ever", "sleep_in_the_loop"])
async def test_the_shutdown_timeout_counts_from_the_signal(
    program: Callable[[str], Path], place: str, how: str
) -> None:
    """a loop that is blocked when the signal comes can't hold up the forced exit."""
    async with python(program(HANGING), place, how, 0.2) as service:
        await service.ready()
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 1
    assert_shows_the_tree(service.stderr.text, how)


@pytest.mark.process
async def test_only_the_shutdown_timeout_ends_the_wait_for_a_leftover(
    program: Callable[[str], Path],
) -> None:
    """what outlasts its stop_timeout and every cancellation is shown when the exit is forced."""
    source = """
    db = Module("db", stop_timeout=0.05)
    app = App(db, stop_timeout=0.05)

    @db.on_stop
    async def never_end():
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    @db.worker
    async def end():
        app.request_shutdown()

    sys.exit(run(app, shutdown_timeout=0.5))
    """
    ended = await run_python(program(source))
    assert ended.code == 1
    assert "in never_end" in ended.stderr


@pytest.mark.process
async def test_the_shutdown_timeout_does_not_count_while_draining(
    program: Callable[[str], Path],
) -> None:
    """a drain_delay longer than the shutdown_timeout is waited for, and the exit is clean."""
    source = """
    db = Module("db")
    app = App(db)

    @db.worker
    async def work():
        await app.started.wait()
        say("ready")

    sys.exit(run(app, drain_delay=1, shutdown_timeout=0.8))
    """
    async with python(program(source)) as service:
        await service.ready()
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 0


@pytest.mark.process
async def test_a_program_that_stops_in_time_is_left_alone(program: Callable[[str], Path]) -> None:
    """once the app has ended neither its time limit nor a late watcher ends the process."""
    source = """
    print(run(App(command=trio.lowlevel.checkpoint), shutdown_timeout=0.05))
    time.sleep(0.3)
    names = [thread.name for thread in threading.enumerate()]
    print(len([name for name in names if not name.startswith("Trio")]))
    """
    ended = await run_python(program(source))
    assert (ended.code, ended.stdout, ended.stderr) == (0, "0\n1\n", "")


# --- the task tree -----------------------------------------------------------------------------


@pytest.mark.process
async def test_sigusr1_prints_every_task_of_every_module(program: Callable[[str], Path]) -> None:
    """the tree on stderr has modules, workers, their children and their stacks; all goes on."""
    source = """
    store = Module("store")
    web = Module("web", depends_on=[store])
    app = App(store, web)

    @store.worker
    async def write_rows():
        await wait_for_rows()

    async def wait_for_rows():
        await trio.sleep_forever()

    @store.service_worker
    async def vacuum():
        await trio.Event().wait()

    @web.worker
    async def serve_clients():
        async with trio.open_nursery() as nursery:
            for client in ("ann", "bob"):
                nursery.start_soon(answer, client, name=f"client {client}")

    async def answer(client):
        await trio.sleep_forever()

    @web.worker
    async def echo():
        await app.started.wait()
        say("ready")
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            say(line.strip())

    sys.exit(run(app))
    """
    async with python(program(source)) as service:
        await service.ready()
        service.send(signal.SIGUSR1)
        for name in ("store", "web", "write_rows", "vacuum", "client ann", "client bob"):
            await service.stderr.find(name)
        for function in ("wait_for_rows", "vacuum", "answer", "serve_clients", "echo"):
            await service.stderr.find(rf'File ".*service\.py", line \d+, in {function}$')
        await service.tell("still here")
        await service.stdout.find("still here")
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 0


@pytest.mark.process
async def test_sigusr1_shows_where_a_start_hangs(program: Callable[[str], Path]) -> None:
    """the tree shows a module that is starting and the stack of its start function."""
    async with python(program(PHASES), "start") as service:
        await service.ready()
        service.send(signal.SIGUSR1)
        await service.stderr.find("STARTING")
        await service.stderr.find("in start_top")
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 0


@pytest.mark.process
async def test_sigusr1_never_forces_the_exit(program: Callable[[str], Path]) -> None:
    """five of them in a stop print five trees and count for nothing."""
    async with python(program(PHASES), "stop") as service:
        await service.ready()
        for _ in range(5):
            printed = len(service.stderr.text)
            service.send(signal.SIGUSR1)
            await service.stderr.find("in stop_top", printed)
        service.send(signal.SIGTERM)
        await wait_for_warning(service.stderr, 4)
        await service.tell("go on")
        assert await service.exit_code() == 0
    assert service.stdout.lines[-2:] == ["top stopped", "base stopped"]


@pytest.mark.process
async def test_sigusr1_shows_what_blocks_the_loop(program: Callable[[str], Path]) -> None:
    """the tree doesn't wait for the loop, and the blocking call is in it."""
    source = """
    db = Module("db")
    app = App(db)

    @db.worker
    async def block():
        say("ready")
        time.sleep(600)

    run(app)
    """
    async with python(program(source)) as service:
        await service.ready()
        service.send(signal.SIGUSR1)
        await service.stderr.find("'db'")
        await service.stderr.find("in block")


# --- reload ------------------------------------------------------------------------------------


@pytest.mark.process
async def test_sighup_reloads(program: Callable[[str], Path]) -> None:
    """with reload SIGHUP calls it each time; one that fails is reported and ends nothing."""
    source = """
    db = Module("db")
    app = App(db)
    count = 0

    @db.worker
    async def work():
        await app.started.wait()
        say("ready")

    async def reload():
        global count
        count += 1
        if count == 2:
            raise OSError("the file is gone")
        say(f"reload {count}")

    sys.exit(run(app, reload=reload))
    """
    async with python(program(source)) as service:
        await service.ready()
        service.send(signal.SIGHUP)
        await service.stdout.find("reload 1")
        service.send(signal.SIGHUP)
        await service.stderr.find("the file is gone")
        service.send(signal.SIGHUP)
        await service.stdout.find("reload 3")
        service.send(signal.SIGTERM)
        assert await service.exit_code() == 0


# --- signals on the mock clock -----------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[dict[int, Any]]:
    """Put handlers in place that fail the test instead of ending it, and return them."""

    def nobody(number: int, frame: object) -> None:
        raise AssertionError(f"nobody took {signal.Signals(number).name}")

    before = {number: signal.signal(number, nobody) for number in ALL}
    yield dict.fromkeys(ALL, nobody)
    for number, handler in before.items():
        signal.signal(number, handler)


def current_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in ALL}


class Draining:
    """An app that gets signals at certain times, and its state one second after each."""

    def __init__(self, *signals: tuple[float, signal.Signals]) -> None:
        self.trace = Trace()
        self.db = self.trace.module("db")
        self.app = App(self.db)
        self.signals = signals
        self.states: list[tuple[bool, bool, bool]] = []
        self.reason = ""
        self.db.worker(self.send)
        self.db.on_stop(self.read_reason)

    async def send(self) -> None:
        for time, number in self.signals:
            await trio.sleep_until(time)
            signal.raise_signal(number)
            await trio.sleep(1)
            shutting_down = self.app.shutting_down.is_set()
            self.states.append((self.app.ready, self.db.online, shutting_down))
        await trio.sleep_forever()

    async def read_reason(self) -> None:
        self.reason = self.app.shutdown_reason or ""


async def test_the_drain_delay(autojump_clock: MockClock, handlers: dict[int, Any]) -> None:
    """after the signal all stays online and readiness says no; then the app shuts down."""
    draining = Draining((10, signal.SIGTERM))
    assert await serve(draining.app, drain_delay=30) == 0
    assert draining.states == [(False, True, False)]
    assert draining.trace.at("db.stop") == pytest.approx(40)
    assert "SIGTERM" in draining.reason


async def test_a_second_signal_ends_the_drain_delay(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """somebody who asks twice needn't wait."""
    draining = Draining((10, signal.SIGTERM), (20, signal.SIGINT))
    assert await serve(draining.app, drain_delay=30) == 0
    assert draining.trace.at("db.stop") == pytest.approx(20)


async def test_without_a_drain_delay_the_shutdown_begins_at_once(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """the default is no delay."""
    draining = Draining((10, signal.SIGHUP))
    assert await serve(draining.app) == 0
    assert draining.trace.at("db.stop") == pytest.approx(10)
    assert "SIGHUP" in draining.reason


@pytest.mark.parametrize("signals", [(), ((10, signal.SIGTERM),)], ids=["none", "draining"])
async def test_the_drain_delay_is_for_signals_alone(
    autojump_clock: MockClock,
    handlers: dict[int, Any],
    signals: tuple[tuple[float, signal.Signals], ...],
) -> None:
    """a shutdown that the app asks for itself begins at once, also in the delay of a signal."""
    draining = Draining(*signals)

    @draining.db.worker
    async def end() -> None:
        await trio.sleep_until(20)
        draining.app.request_shutdown("enough")

    assert await serve(draining.app, drain_delay=30) == 0
    assert draining.trace.at("db.stop") == pytest.approx(20)
    assert draining.reason == "enough"


async def test_an_app_that_was_drained_is_ready_again_in_its_next_run(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """what a signal did to readiness ends with the run."""
    draining = Draining((10, signal.SIGTERM))
    await serve(draining.app, drain_delay=30)
    async with draining.app:
        assert draining.app.ready


async def test_a_signal_does_not_replace_an_exit_code(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """app.exit_code is what serve returns after a signal, too."""
    draining = Draining((10, signal.SIGTERM))

    @draining.db.worker
    async def decide() -> None:
        draining.app.exit_code = 7

    assert await serve(draining.app) == 7


async def test_a_shutdown_cancels_a_reload(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """a reload that still runs when the app shuts down is cancelled and doesn't outlive it."""
    trace = Trace()
    draining = Draining((10, signal.SIGHUP), (20, signal.SIGTERM))
    assert await serve(draining.app, reload=trace.step("reload", 600)) == 0
    assert trace.names == ["reload!"]
    assert trace.at("reload!") == pytest.approx(20)


async def test_a_reload_that_raises_system_exit_ends_the_app_in_order(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """what is no Exception passes this guard, too, and begins an ordered shutdown."""
    draining = Draining((10, signal.SIGHUP))
    assert await serve(draining.app, reload=raising(SystemExit(9))) == 9
    assert draining.trace.at("db.stop") == pytest.approx(10)


async def test_a_reload_that_fails_is_reported_once(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """the report holds the exception, and the app goes on until it is told to leave."""
    error = OSError("the file is gone")
    draining = Draining((10, signal.SIGHUP), (20, signal.SIGTERM))
    async with draining.app.reports() as channel:
        assert await serve(draining.app, reload=raising(error)) == 0
        reports = [report async for report in channel]
    assert [report.exception for report in reports] == [error]
    assert draining.trace.at("db.stop") == pytest.approx(20)


# --- serve in a foreign run --------------------------------------------------------------------


async def test_serve_takes_signals_for_as_long_as_it_runs(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """it has handlers for all of its signals, and puts back those that were there."""
    seen: list[dict[int, Any]] = []
    db = Module("db")
    app = App(db)

    @db.worker
    async def look() -> None:
        seen.append(current_handlers())
        app.request_shutdown()

    await serve(app)
    (during,) = seen
    assert [number for number in ALL if during[number] is handlers[number]] == []
    assert current_handlers() == handlers


async def test_serve_puts_the_handlers_back_after_a_failure(handlers: dict[int, Any]) -> None:
    """a failed start leaves no handler behind, nor does an exception that serve passes on."""
    assert await serve(App(prep=raising(ValueError("bad")))) == 1
    assert current_handlers() == handlers
    with pytest.raises(KeyboardInterrupt):
        await serve(App(prep=raising(KeyboardInterrupt())))
    assert current_handlers() == handlers


async def test_serve_leaves_signals_alone_when_told_so(
    autojump_clock: MockClock, handlers: dict[int, Any]
) -> None:
    """with signals=False the host's handlers stay in charge."""
    seen: list[dict[int, Any]] = []
    db = Module("db")
    app = App(db)

    @db.worker
    async def look() -> None:
        seen.append(current_handlers())
        app.request_shutdown()

    await serve(app, signals=False)
    assert seen == [handlers]


async def test_a_cancelled_serve_stops_in_order(autojump_clock: MockClock) -> None:
    """a scope around it is an ordinary shutdown, after which the Cancelled goes on its way."""
    trace = Trace()
    db = trace.module("db", stop=1)
    web = trace.module("web", db, stop=1)
    with trio.move_on_after(5) as scope:
        await serve(App(db, web), signals=False)
        raise AssertionError("serve must not return")
    assert scope.cancelled_caught
    assert trace.only("stop") == ["web.stop", "db.stop"]
    assert trio.current_time() == pytest.approx(7)


async def test_serve_is_one_task_among_others(autojump_clock: MockClock) -> None:
    """two apps in one run don't know of each other; the end of one is not the other's."""
    trace = Trace()
    short, long = App(trace.module("short")), App(trace.module("long"))
    codes: dict[str, int] = {}

    async def serve_one(app: App, name: str) -> None:
        codes[name] = await serve(app, signals=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, short, "short")
        nursery.start_soon(serve_one, long, "long")
        await trio.sleep(1)
        short.request_shutdown(exit_code=1)
        await trio.sleep(1)
        assert codes == {"short": 1}
        assert long["long"].online
        long.request_shutdown(exit_code=2)
    assert codes == {"short": 1, "long": 2}


def test_serve_runs_outside_the_main_thread() -> None:
    """without signals it needs nothing that only the main thread has."""

    async def main() -> int:
        app = App(command=trio.lowlevel.checkpoint)
        return await serve(app, signals=False)

    async def in_a_thread() -> int:
        return await trio.to_thread.run_sync(trio.run, main)

    assert trio.run(in_a_thread) == 0


def test_signals_need_the_main_thread() -> None:
    """serve says what to do where it can't have them, before the app is entered."""

    async def in_a_thread() -> None:
        app = App(prep=raising(SystemExit(3)))
        await trio.to_thread.run_sync(lambda: trio.run(serve, app))

    with pytest.raises(RuntimeError, match="signals=False"):
        trio.run(in_a_thread)


async def test_serve_is_a_checkpoint() -> None:
    """also for an app that has nothing to do."""
    with assert_checkpoints():
        await serve(App(command=trio.lowlevel.checkpoint), signals=False)
    with assert_checkpoints():
        await serve(App(prep=raising(CleanExit())), signals=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Outcome()])
async def test_what_is_no_exception_leaves_serve(
    autojump_clock: MockClock, error: BaseException
) -> None:
    """KeyboardInterrupt and a test's outcome reach the caller, after the stop in order."""
    trace = Trace()
    db = trace.module("db", stop=1)
    db.worker(raising(error, after=1))
    with pytest.raises(type(error)) as caught:
        await serve(App(db), signals=False)
    assert caught.value is error
    assert trace.only("stop") == ["db.stop"]


async def test_serve_waits_for_what_will_not_be_hurried(autojump_clock: MockClock) -> None:
    """a shutdown_timeout that isn't reached changes nothing."""
    db = Module("db", stop=partial(stubborn, 30))
    app = App(db)

    @db.worker
    async def end() -> None:
        app.request_shutdown()

    assert await serve(app, signals=False, shutdown_timeout=40) == 0
    assert trio.current_time() == pytest.approx(30)


# --- run, and what it takes --------------------------------------------------------------------


def test_the_options_have_their_documented_defaults() -> None:
    """run and serve take the options of the contract, by keyword, with its defaults."""
    options = {"drain_delay": 0, "shutdown_timeout": 180, "reload": None}
    assert options_of(run) == options
    assert options_of(serve) == options | {
        "signals": True,
        "task_status": trio.TASK_STATUS_IGNORED,
    }


def options_of(function: Callable[..., Any]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_run_takes_an_app_again_and_again(handlers: dict[int, Any]) -> None:
    """each run is a fresh one, its exit code too, and the handlers are put back."""
    codes = iter([3, None])
    db = Module("db")
    app = App(db)

    @db.worker
    async def end() -> None:
        app.request_shutdown("done", exit_code=next(codes))

    assert [run(app), run(app)] == [3, 0]
    assert current_handlers() == handlers


def test_run_takes_a_factory(handlers: dict[int, Any]) -> None:
    """it is called once for each run and its app is what runs."""
    made: list[App] = []

    def make() -> App:
        made.append(App(command=raising(SystemExit(len(made)))))
        return made[-1]

    assert [run(make), run(make)] == [0, 1]
    assert len(made) == 2


def test_what_is_no_exception_leaves_run() -> None:
    """a KeyboardInterrupt of the user's own code reaches the caller of run."""
    with pytest.raises(KeyboardInterrupt):
        run(App(command=raising(KeyboardInterrupt())))


@pytest.mark.parametrize("wrong", [5, "service:app", None, Module("db")])
def test_what_is_no_app_is_refused(wrong: Any) -> None:
    """run names the argument and shows the value."""
    with pytest.raises(TypeError, match="app") as caught:
        run(wrong)
    assert repr(wrong) in str(caught.value)


def test_a_factory_that_returns_no_app_is_refused() -> None:
    """the message shows what it returned."""
    with pytest.raises(TypeError, match=r"\b5\b"):
        run(lambda: 5)  # type: ignore[arg-type, return-value]


async def test_serve_refuses_what_is_no_app() -> None:
    """serve checks its argument as run does, before anything is awaited."""
    with pytest.raises(TypeError, match="'service:app'"):
        await serve("service:app", signals=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [lambda: None, 5])
def test_a_reload_that_is_not_async_is_refused(wrong: Any) -> None:
    """run and serve say so before the app is entered."""
    ran: list[str] = []

    async def prep() -> None:
        ran.append("prep")

    with pytest.raises(TypeError, match="reload"):
        run(App(prep=prep), reload=wrong)
    with pytest.raises(TypeError, match="reload"):
        trio.run(partial(serve, App(prep=prep), reload=wrong))
    assert ran == []


def test_a_reload_that_takes_arguments_is_refused() -> None:
    """a signature that can't be called without arguments is an error at once."""

    async def reload(path: str) -> None:
        raise AssertionError(path)

    with pytest.raises(TypeError, match="reload"):
        run(App(), reload=reload)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["drain_delay", "shutdown_timeout"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_times_that_make_no_sense_are_refused(name: str, value: float) -> None:
    """run names the argument and shows the value, before the app is entered."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name) as caught:
        run(App(prep=raising(SystemExit(3))), **options)
    assert repr(value) in str(caught.value)


async def test_a_nursery_starts_what_is_served(autojump_clock: MockClock) -> None:
    """nursery.start returns the app when all of it is online."""
    m = Module("m", start=partial(trio.sleep, 3))
    async with trio.open_nursery() as nursery:
        app = await nursery.start(partial(serve, App(m), signals=False))
        assert (trio.current_time(), m.online, app["m"]) == (3, True, m)
        app.request_shutdown("seen enough")


async def test_a_nursery_is_told_of_a_failed_start(autojump_clock: MockClock) -> None:
    """nursery.start raises the StartError; without it that ends in the exit code alone."""
    m = Module("m", start=raising(OSError("no port")))
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, App(m), signals=False))
    (error,) = caught.value.exceptions
    assert isinstance(error, StartError)
    assert (error.module, repr(error.__cause__)) == ("m", "OSError('no port')")
    assert await serve(App(m), signals=False) == 1


async def test_what_is_served_says_when_it_starts_and_why_it_goes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """the log has one line for each, for those who want to know much."""
    caplog.set_level("DEBUG", "trio_modules")
    async with trio.open_nursery() as nursery:
        app = await nursery.start(partial(serve, App(Module("m"), name="hub"), signals=False))
        app.request_shutdown("seen enough")
    assert caplog.messages == ["app hub has started", "app hub is shutting down: seen enough"]
