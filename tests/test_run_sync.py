"""Sync functions in threads and in other processes, on a real clock."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from lifecycle_helpers import notes_of
from process_helpers import run_python
from support import reports_of, switch_off
from trio.testing import assert_checkpoints

from trio_modules import App, Module, ModuleOffline, Priority, StopError, current_module

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

needs_processes = pytest.mark.process


class Gate:
    """A door at which a thread waits, and which says that one is there."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self._open = threading.Event()

    def pass_through(self) -> str:
        trio.from_thread.run_sync(self.reached.set)
        assert self._open.wait(20)
        return "passed"

    def open(self) -> None:
        self._open.set()


def divide(a: int, b: int) -> float:
    return a / b


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell_and_wait(path: str) -> None:
    """Write this process's number into a FIFO, and wait until somebody ends the process."""
    with open(path, "w") as fifo:  # noqa: PTH123
        fifo.write(f"{os.getpid()}\n")
    signal.pause()


def call_fn(module: Module, where: str) -> Callable[..., Awaitable[Any]]:
    if where == "run_sync":
        return module.run_sync
    return partial(module.run_sync_microtask, where=where)  # type: ignore[arg-type]


THREADS = ["run_sync", "thread"]
EVERYWHERE = pytest.mark.parametrize(
    "where", [*THREADS, pytest.param("process", marks=needs_processes)]
)
IN_THREADS = pytest.mark.parametrize("where", THREADS)


def held(app: App) -> int:
    return app.status().limits.microtasks_running


def running(app: App) -> int:
    return app.status().modules["m"].work.running


# --- everywhere --------------------------------------------------------------------------------


@EVERYWHERE
async def test_it_returns_what_the_function_returns(where: str) -> None:
    """the function is called with its arguments, elsewhere, and its value comes back."""
    m = Module("m")
    async with App(m):
        call = call_fn(m, where)
        assert await call(divide, 3, 2) == 1.5
        assert (await call(os.getpid) != os.getpid()) is (where == "process")
        if where != "process":
            assert await call(threading.get_ident) != threading.get_ident()


@EVERYWHERE
async def test_it_raises_what_the_function_raises(where: str) -> None:
    """an exception reaches the caller with a note, isn't reported, and is counted as ended."""
    m = Module("m")

    async def use() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await call_fn(m, where)(divide, 1, 0)
        kind = "thread" if where == "run_sync" else "microtask"
        assert f"in {kind} 'divide' of module 'm'" in notes_of(caught.value)
        work = app.status().modules["m"].work
        assert (work.started, work.running, work.ended) == (1, 0, 1)
        assert held(app) == 0

    app = App(m)
    assert await reports_of(app, use) == []


async def async_fn() -> None: ...


@EVERYWHERE
@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (async_fn, ()),
        (partial(async_fn), ()),
        (None, ()),
        (divide, (1,)),
        (divide, (1, 2, 3)),
        (divide(1, 1), ()),
    ],
)
async def test_wrong_functions_and_arguments_are_errors_at_once(
    where: str, fn: Any, args: tuple[object, ...]
) -> None:
    """async functions and arguments that don't fit are a TypeError before anything happened."""
    m = Module("m")
    async with App(m) as app:
        with pytest.raises(TypeError):
            await call_fn(m, where)(fn, *args)
        assert app.status().modules["m"].work.started == 0


async def test_an_unknown_place_is_an_error() -> None:
    """where is "thread" or "process", and a wrong one is shown."""
    m = Module("m")
    async with App(m):
        with pytest.raises(ValueError, match="where must be 'thread' or 'process', got 'mars'"):
            await m.run_sync_microtask(int, where="mars")  # type: ignore[arg-type]


@EVERYWHERE
async def test_it_is_a_checkpoint(where: str) -> None:
    """calling a sync function elsewhere is a checkpoint, and begins nothing for the cancelled."""
    m = Module("m")
    async with App(m):
        with assert_checkpoints():
            await call_fn(m, where)(int)
        seen: list[int] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            await call_fn(m, where)(seen.append if where != "process" else int, 1)
        assert scope.cancelled_caught
        assert seen == []


@EVERYWHERE
async def test_only_microtasks_hold_a_slot(where: str) -> None:
    """run_sync needs no slot; run_sync_microtask waits for one as its priority says."""
    m = Module("m")
    async with App(m, max_concurrent_microtasks=1) as app, m.microtask_slot():
        called = trio.Event()

        async def call() -> None:
            options = {} if where == "run_sync" else {"priority": Priority.LOW}
            await call_fn(m, where)(int, **options)
            called.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            if where == "run_sync":
                await called.wait()
                assert app.status().limits.microtasks_waiting == 0
            else:
                await trio.testing.wait_all_tasks_blocked()
                assert app.status().limits.microtasks_waiting == 1
                app.max_concurrent_microtasks = 2
        assert called.is_set()
        assert held(app) == 1


# --- threads -----------------------------------------------------------------------------------


@IN_THREADS
async def test_cancellation_waits_for_a_thread(where: str) -> None:
    """a thread can't be cancelled: the call ends when the thread does, with its value lost."""
    m = Module("m")
    gate = Gate()
    async with App(m) as app, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def call() -> None:
            with scope:
                assert await call_fn(m, where)(gate.pass_through) == "passed"

        nursery.start_soon(call)
        await gate.reached.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert running(app) == 1
        assert held(app) == (where == "thread")
        gate.open()
    assert running(app) == 0
    assert held(app) == 0


@IN_THREADS
async def test_a_stop_waits_for_a_thread(where: str) -> None:
    """a module isn't offline before the threads that work for it have ended."""
    m = Module("m", enabled=True)
    gate = Gate()
    seen = []

    @m.on_stop
    async def stop() -> None:
        seen.append("stopped")

    async def call() -> None:
        await call_fn(m, where)(gate.pass_through)
        seen.append("passed")

    async with App(m, managed=True) as app, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await gate.reached.wait()
        nursery.start_soon(switch_off, app, m)
        await m.stopping.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        gate.open()
        await m.wait_status(m.status.OFFLINE)
        assert seen == ["passed", "stopped"]


@IN_THREADS
async def test_a_stop_that_hangs_on_a_thread_shows_where_it_is(where: str) -> None:
    """the StopError has the stack of the thread that the module waits for."""
    m = Module("m", enabled=True, stop_timeout=0.05)
    gate = Gate()
    async with App(m, managed=True) as app, trio.open_nursery() as nursery:
        nursery.start_soon(call_fn(m, where), gate.pass_through)
        await gate.reached.wait()
        with pytest.raises(StopError) as caught:
            await switch_off(app, m)
        gate.open()
    text = str(caught.value)
    assert "thread of pass_through" in text
    assert "in pass_through" in text


@IN_THREADS
async def test_the_task_tree_shows_where_a_thread_is(where: str) -> None:
    """app.task_tree() has the stack of each thread that works for a module, while it does."""
    m = Module("m")
    gate = Gate()
    async with App(m) as app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_fn(m, where), gate.pass_through)
            await gate.reached.wait()
            tree = app.task_tree()  # the thread may be a step before its wait yet
            gate.open()
        assert "thread of pass_through" in tree
        assert "in pass_through" in tree
        assert "pass_through" not in app.task_tree()


@IN_THREADS
async def test_a_thread_knows_its_module_and_may_use_trio(where: str) -> None:
    """a thread runs in the context of its caller, as work of the module."""
    m = Module("m")
    async with App(m):
        assert await call_fn(m, where)(current_module) is m
        assert await call_fn(m, where)(trio.from_thread.run, async_fn) is None


async def test_run_sync_takes_a_limiter() -> None:
    """run_sync takes its token from the limiter that it is given."""
    m = Module("m")
    gate = Gate()
    limiter = trio.CapacityLimiter(1)
    async with App(m), trio.open_nursery() as nursery:
        nursery.start_soon(partial(m.run_sync, gate.pass_through, limiter=limiter))
        await gate.reached.wait()
        assert limiter.borrowed_tokens == 1
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(partial(m.run_sync, int, limiter=limiter))
                await trio.testing.wait_all_tasks_blocked()
                assert limiter.statistics().tasks_waiting == 1
                scope.cancel()
        gate.open()
    assert limiter.borrowed_tokens == 0


async def test_run_sync_uses_trios_limiter_by_default_and_microtasks_dont() -> None:
    """the slots alone limit the threads of microtasks; others use Trio's default limiter."""
    m = Module("m")
    default = trio.to_thread.current_default_thread_limiter()

    def borrowed() -> int:
        return trio.from_thread.run_sync(lambda: int(default.borrowed_tokens))

    async with App(m):
        assert await m.run_sync(borrowed) == 1
        assert await m.run_sync_microtask(borrowed) == 0


@IN_THREADS
async def test_a_nested_call_in_a_microtask_uses_its_slot(where: str) -> None:
    """a sync function that a microtask calls elsewhere uses the slot which that holds."""
    m = Module("m")
    async with App(m, max_concurrent_microtasks=1) as app:

        async def outer() -> None:
            assert await call_fn(m, where)(trio.from_thread.run_sync, held, app) == 1

        await m.run_microtask(outer)


# --- processes ---------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def read_pid(fifo: Path) -> int:
    """The number of the process that writes it into the FIFO."""
    return int(await trio.to_thread.run_sync(fifo.read_text))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_processes
async def test_a_function_that_cant_be_sent_is_an_error_at_once() -> None:
    """a lambda and arguments that can't be sent to a process are a TypeError that shows them."""
    m = Module("m")
    async with App(m) as app:
        with pytest.raises(TypeError, match="lambda"):
            await m.run_sync_microtask(lambda: 1, where="process")
        with pytest.raises(TypeError, match="lock"):
            await m.run_sync_microtask(bool, threading.Lock(), where="process")
        assert app.status().modules["m"].work.started == 0


@needs_processes
async def test_a_process_that_dies_is_an_error_and_the_next_call_works() -> None:
    """a killed process is a RuntimeError that names module and microtask; the next gets another."""
    m = Module("m")
    async with App(m) as app:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="microtask 'job' of module 'm'") as caught:
                await m.run_sync_microtask(die, where="process", name="job")
            assert (caught.value.module, caught.value.task) == ("m", "job")  # type: ignore[attr-defined]
            assert await m.run_sync_microtask(divide, 1, 2, where="process") == 0.5
        assert held(app) == 0


@needs_processes
async def test_cancellation_kills_the_process_at_once(fifo: Path) -> None:
    """the process of a cancelled call is killed and the call ends; the next call works."""
    m = Module("m")
    async with App(m) as app:
        with trio.fail_after(20), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(m.run_sync_microtask, tell_and_wait, str(fifo), where="process")
                )
                pid = await read_pid(fifo)
                scope.cancel()
        assert scope.cancelled_caught
        assert not is_alive(pid)
        assert held(app) == 0
        assert await m.run_sync_microtask(divide, 1, 2, where="process") == 0.5


@needs_processes
async def test_a_stop_kills_the_process_of_a_microtask(fifo: Path) -> None:
    """a module that stops kills the process of its microtask; the caller gets ModuleOffline."""
    m = Module("m", enabled=True)
    async with App(m, managed=True) as app:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ModuleOffline):
                    await m.run_sync_microtask(tell_and_wait, str(fifo), where="process")

            nursery.start_soon(call)
            pid = await read_pid(fifo)
            with trio.fail_after(20):
                await switch_off(app, m)
        assert not is_alive(pid)


@needs_processes
async def test_no_process_is_left_when_the_app_was_left() -> None:
    """the processes of an app end with its block, and another run of it gets others."""
    m = Module("m")
    app = App(m)
    pids = []
    for _ in range(2):
        async with app:
            pids.append(await m.run_sync_microtask(os.getpid, where="process"))
            again = await m.run_sync_microtask(os.getpid, where="process")
            assert is_alive(again)
            pids.append(again)
        assert not any(map(is_alive, pids))


WITHOUT_THE_EXTRA = """
import sys
sys.modules["trio_parallel"] = None
import trio
from trio_modules import App, Module

async def main():
    m = Module("m")
    async with App(m) as app:
        print(await m.run_sync_microtask(int, "1"), await m.run_sync(int, "2"))
        for _ in range(2):
            try:
                await m.run_sync_microtask(int, "3", where="process")
            except ImportError as error:
                print(error)
        print(app.status().modules["m"].work.running, app.status().limits.microtasks_running)

trio.run(main)
"""


@needs_processes
async def test_without_the_extra_the_error_says_what_to_install() -> None:
    """without trio-parallel threads work, and a process is an ImportError that names the extra."""
    ended = await run_python("-c", WITHOUT_THE_EXTRA)
    assert ended.stderr == ""
    first, second, third, last = ended.stdout.splitlines()
    assert first == "1 2"
    assert second == third
    assert "pip install 'trio-modules[parallel]'" in second
    assert last == "0 0"


async def test_importing_the_package_doesnt_import_trio_parallel() -> None:
    """the extra is loaded when it is used, not before."""
    ended = await run_python(
        "-c", "import trio_modules, sys; print('trio_parallel' in sys.modules)"
    )
    assert ended.stdout.strip() == "False", (ended, sys.path)
