"""An app as a program: signals, the exit code, and the last resort when nothing ends.

The only room that knows signals. The handlers run in the main thread between two bytecodes, so
they count and force the exit even while the loop is blocked; all else they hand to the loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TypeAlias

import trio

from trio_modules._app import App
from trio_modules._exceptions import StartError
from trio_modules._reporting import take_apart
from trio_modules._util import callable_name, check_async, check_call, check_seconds

__all__ = ["run", "serve"]

#: The seed's count: so many signals, the first one included, and the program is gone.
_SIGNALS_TO_FORCE = 5

#: Seconds that stderr, or a tree of tasks that is hard to get, may take.
_PATIENCE = 1.0

#: Seconds after which a thread that waits for the interpreter gets it from one that spins.
_PROMPTLY = 1e-4

_logger = logging.getLogger("trio_modules")

AppOrFactory: TypeAlias = "App | Callable[[], App | Awaitable[App]]"


def run(
    app: App | Callable[[], App | Awaitable[App]],
    *,
    drain_delay: float = 0,
    shutdown_timeout: float = 180,
    reload: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Run an app as the program, until it has shut down (seed: the main function of a service).

    SIGINT, SIGTERM, SIGQUIT, and SIGHUP unless *reload* takes it, shut down in order; while
    shutting down each further signal says how many more force the exit. SIGUSR1 prints the tree
    of all tasks and goes on.

    Args:
        app: the app, or a function that returns it.
        drain_delay: seconds from the first signal to the shutdown, in which everything stays
            online and `App.ready` says no; another signal ends them.
        shutdown_timeout: seconds after which a shutdown that hasn't ended is forced: the tree of
            all tasks is printed and the process exits with 1, also when the loop is blocked.
        reload: an async function that is called on SIGHUP.

    Returns:
        the exit code: ``app.exit_code`` if set, that of a `SystemExit`, 1 after a failed start, a
        crash, a failed command or a stop that went wrong, else 0.

    Raises:
        BaseException: what is no `Exception`, `SystemExit` aside.
    """
    options = _Options(drain_delay, shutdown_timeout, reload)

    async def main() -> int:
        return await _serve(app, True, options, trio.TASK_STATUS_IGNORED)

    return trio.run(main)


async def serve(
    app: App | Callable[[], App | Awaitable[App]],
    *,
    signals: bool = True,
    drain_delay: float = 0,
    shutdown_timeout: float = 180,
    reload: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED,
) -> int:
    """The same as `run`, inside of a ``trio.run`` of yours (ours).

    ``await nursery.start(serve, app)`` returns the app when it has started; what else begins in
    the nursery waits for that, or ends with a failed start.

    Args:
        app: the app, or a function that returns it.
        signals: whether to handle signals; that needs the main thread.
        drain_delay: as for `run`.
        shutdown_timeout: as for `run`, on Trio's clock.
        reload: as for `run`.
        task_status: what ``nursery.start`` gives.

    Returns:
        the exit code, as for `run`.

    Raises:
        StartError: if the start fails, and a ``nursery.start`` waits for it.
        RuntimeError: if signals are to be handled outside of the main thread.
        BaseException: what is no `Exception`, `SystemExit` aside.

    Cancelled, it shuts the app down in order, then raises `trio.Cancelled`.
    """
    options = _Options(drain_delay, shutdown_timeout, reload)
    return await _serve(app, signals, options, task_status)


class _Options:
    """The options of `run` and `serve`, checked."""

    def __init__(
        self,
        drain_delay: float,
        shutdown_timeout: float,
        reload: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self.drain_delay = check_seconds("drain_delay", drain_delay, finite=True)
        self.shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        self.reload = reload
        if reload is not None:
            check_async(reload, "reload")
            check_call(reload, (), "reload")


async def _serve(
    app: AppOrFactory, signals: bool, options: _Options, task_status: trio.TaskStatus[App]
) -> int:
    if signals and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals=True needs the main thread; use signals=False elsewhere")
    ready_app = await _made(app)
    leaving: BaseException | None = None
    code = 0
    async with trio.open_nursery() as nursery:
        program = _Program(ready_app, options, nursery)
        nursery.start_soon(program.watch_shutdown, name="shutdown watch")
        with program.handlers(signals):
            try:
                await program.live(task_status)
            except BaseException as exc:
                leaving = exc
        program.over()
        nursery.cancel_scope.cancel(reason="the app has stopped")
    if leaving is not None:
        if isinstance(leaving, StartError) and task_status is not trio.TASK_STATUS_IGNORED:
            raise leaving
        code = _code_of(leaving)
    return code if ready_app.exit_code is None else ready_app.exit_code


async def _made(app: AppOrFactory) -> App:
    made: object = app
    if not isinstance(app, App):
        if not callable(app):
            raise TypeError(f"app must be an App or a function that returns one, got {app!r}")
        made = app()
        if isinstance(made, Awaitable):
            made = await made
    if not isinstance(made, App):
        raise TypeError(f"{callable_name(app)}() must return an App, got {made!r}")
    return made


def _code_of(exc: BaseException) -> int:
    """The exit code for what left the block; raises what is not ours to answer."""
    if isinstance(exc, SystemExit):
        return _code_of_exit(exc)
    if not isinstance(exc, Exception):
        raise exc
    _logger.critical("the app failed: %s", exc, exc_info=exc)
    return 1


def _code_of_exit(exc: SystemExit) -> int:
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    print(exc.code, file=sys.stderr)
    return 1


class _Program:
    """One app as the program: what signals do to it, and who watches over its shutdown."""

    def __init__(self, app: App, options: _Options, nursery: trio.Nursery) -> None:
        self._app = app
        self._options = options
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._drained = trio.Event()
        self._count = 0
        self._over = threading.Event()
        self._forcing = threading.Lock()
        self._installing = threading.Lock()
        self._handling = False
        self._why = ""
        self._watchdog: threading.Thread | None = None
        clock = trio.lowlevel.current_clock()
        self._real_time = type(clock).__name__ == "SystemClock"
        self._thread = threading.get_ident()

    async def live(self, task_status: trio.TaskStatus[App]) -> None:
        """Enter the block and stay in it until the shutdown cancels it."""
        async with self._app as app:
            if app.started.is_set():
                _logger.debug("app %s has started", app.name)
                task_status.started(app)
            await trio.sleep_forever()

    def over(self) -> None:
        """The app has stopped: nothing has to be forced any more."""
        self._over.set()

    # ------------------------------------------------------------ signals

    @contextlib.contextmanager
    def handlers(self, signals: bool) -> Iterator[None]:
        """Handle the signals for the length of a block."""
        if not signals:
            yield
            return
        self._handling = True
        before = {}
        names = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1")
        try:
            for signum in [getattr(signal, name) for name in names if hasattr(signal, name)]:
                before[signum] = signal.signal(signum, self._handle)
            yield
        finally:
            with self._installing:
                self._handling = False
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if self._why:
            self._force(self._why)
        elif name == "SIGUSR1":  # from here, since it is when the loop is blocked that people ask
            _write(
                f"{self._tree()}\n{self._thread_stack() if trio.lowlevel.in_trio_task() else ''}"
            )
        elif name == "SIGHUP" and self._options.reload is not None:
            self._token.run_sync_soon(self._start_reload)
        else:
            self._count_signal(name)

    def _count_signal(self, name: str) -> None:
        self._count += 1
        left = _SIGNALS_TO_FORCE - self._count
        run = self._app._run
        if left <= 0:
            self._force(f"{name} was the {self._count}th signal")
        elif self._count == 1 and (run is None or run.reason is None):
            self._watch(self._options.drain_delay)
            self._token.run_sync_soon(self._begin, name)
        else:
            _write(f"{name} again, but already shutting down: {left} more to force the exit\n")
            self._token.run_sync_soon(self._drained.set)

    def _begin(self, name: str) -> None:
        if self._options.drain_delay:
            self._nursery.start_soon(self._drain, name, name="drain")
        else:
            self._request(name)

    async def _drain(self, name: str) -> None:
        run = self._app._run
        if run is not None:
            run.draining = True
        with trio.move_on_after(self._options.drain_delay):
            await self._drained.wait()
        self._request(name)

    def _request(self, name: str) -> None:
        if self._app._run is not None:
            self._app.request_shutdown(f"signal {name}")

    def _start_reload(self) -> None:
        self._nursery.start_soon(self._reload, name="reload")

    async def _reload(self) -> None:
        assert self._options.reload is not None
        try:
            await self._options.reload()
        except BaseException as exc:
            caught = take_apart(exc)
            if caught.failure is not None:
                self._app._reporter.caught(caught.failure, "", "reload", "control")
            for fatal in caught.fatal:
                self._app._fatal(fatal)
            if caught.passing is not None and not caught.fatal:
                raise

    # ------------------------------------------------------------ the last resort

    async def watch_shutdown(self) -> None:
        """From the moment the shutdown begins, see that it ends."""
        await self._app.shutting_down.wait()
        _logger.debug("app %s is shutting down: %s", self._app.name, self._app.shutdown_reason)
        if self._real_time:
            self._watch(0.0)
        else:
            await trio.sleep(self._options.shutdown_timeout)
            self._force(f"the shutdown took more than {self._options.shutdown_timeout:g} s")

    def _watch(self, delay: float) -> None:
        """Start the thread that forces the exit; it works while the loop is blocked, too."""
        if self._watchdog is None and self._real_time:
            seconds = min(delay + self._options.shutdown_timeout, threading.TIMEOUT_MAX)
            self._watchdog = threading.Thread(
                target=self._wait_and_force, args=(seconds,), name="shutdown watch", daemon=True
            )
            self._watchdog.start()

    def _wait_and_force(self, seconds: float) -> None:
        if self._over.wait(seconds):
            return
        why = f"the shutdown took more than {self._options.shutdown_timeout:g} s"
        # The loop's own thread can look at its tasks while they stand still. It gets to the handler
        # unless it is in the depths of some C code, and then they stand still, too.
        with self._installing:
            if self._handling and hasattr(signal, "SIGUSR1"):
                self._why = why
                signal.pthread_kill(self._thread, signal.SIGUSR1)
        if not self._over.wait(_PATIENCE if self._why else 0):
            self._force(why)

    def _force(self, why: str) -> None:
        """Show where everything is and exit, in a bounded time whatever the loop is doing."""
        if not self._forcing.acquire(blocking=False):
            return  # the other thread is doing it
        # A loop that spins takes the interpreter back for this long at every file that is read.
        sys.setswitchinterval(_PROMPTLY)
        _write(f"{why}: forcing the exit\n")
        _with_patience(lambda: _write_all(f"{self._tree()}\n{self._thread_stack()}\n"))
        # What an exit would have written; whoever is blocked while writing may hold the locks.
        for flush in (_flush_output, logging.shutdown):
            _with_patience(flush)
        os._exit(1)

    def _tree(self) -> str:
        run = self._app._run
        return f"app {self._app.name!r} is not running" if run is None else run.tree()

    def _thread_stack(self) -> str:
        frame = sys._current_frames().get(self._thread)
        return "the loop's thread\n" + "".join(traceback.format_stack(frame))


def _write(text: str) -> None:
    """Write to stderr past Python's buffers, which a signal may have found in mid-air."""
    _with_patience(lambda: _write_all(text))


def _with_patience(fn: Callable[[], None]) -> None:
    """Call *fn* in a thread and don't wait for it for ever.

    A stderr that nobody reads may be what blocks everything.
    """
    thread = threading.Thread(target=fn, name="stderr", daemon=True)
    thread.start()
    thread.join(_PATIENCE)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, missing, or not a file at all
            stream.flush()


def _write_all(text: str) -> None:
    data = text.encode(errors="backslashreplace")
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(2, data) :]
