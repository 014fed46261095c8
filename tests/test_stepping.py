"""Coroutines that run in a context of their own inside of another task."""

from __future__ import annotations

from contextvars import ContextVar, copy_context

import outcome
import pytest
import trio
from support import let_run

from trio_modules._stepping import WOKEN, begin, run_in_context, trap_of, wait_again

var: ContextVar[str] = ContextVar("var", default="unset")


async def test_every_step_runs_in_the_given_context_and_none_in_the_tasks() -> None:
    """what a job sets it sees after every wait, and whoever ran it never does."""
    seen = []
    context = copy_context()
    context.run(var.set, "starter")

    async def job() -> str:
        seen.append(var.get())
        var.set("own")
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            seen.append(var.get())
        return "done"

    assert await run_in_context(context, job()) == "done"
    assert seen == ["starter", "own", "own", "own"]
    assert var.get() == "unset"
    assert context[var] == "own"


async def test_a_job_that_never_waits_ends_in_one_step() -> None:
    """its value comes back without a step of the scheduler."""

    async def job() -> int:
        return 5

    assert await run_in_context(copy_context(), job()) == 5


@pytest.mark.parametrize("value", [None, 5])
def test_what_begins_and_never_waits_leaves_no_rest(value: int | None) -> None:
    """a job whose value nobody asks for is over in one step, whatever it returns."""
    ended = []

    async def job() -> int | None:
        ended.append(var.get())
        return value

    context = copy_context()
    context.run(var.set, "starter")
    assert begin(context, job()) is None
    assert ended == ["starter"]


async def test_what_begins_and_waits_leaves_a_rest() -> None:
    """awaiting the rest ends the job, in its context, with its value."""

    async def job() -> str:
        var.set("own")
        await trio.lowlevel.checkpoint()
        return var.get()

    rest = begin(copy_context(), job())
    assert rest is not None
    assert await rest == "own"
    assert var.get() == "unset"


def test_what_fails_at_once_raises_where_it_begins() -> None:
    """an exception of the first step is the caller's, with the job in its traceback."""

    async def job() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong") as caught:
        begin(copy_context(), job())
    assert "job" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_exception_leaves_it_at_whatever_step(waits: bool) -> None:
    """the exception is the job's own object, and its traceback names the job."""
    error = ValueError("wrong")

    async def job() -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(ValueError, match="wrong") as caught:
        await run_in_context(copy_context(), job())
    assert caught.value is error
    assert "job" in [entry.name for entry in caught.traceback]


async def test_a_cancellation_reaches_it() -> None:
    """the job is cancelled where it waits, and may clean up with further waits."""
    steps = []

    async def job() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            steps.append(var.get())

    context = copy_context()
    context.run(var.set, "starter")
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_in_context(context, job())
    assert scope.cancelled_caught
    assert steps == ["starter"]


async def test_what_it_starts_inherits_its_context() -> None:
    """a task that the job starts has a copy of the job's context."""
    seen = []

    async def child() -> None:
        seen.append(var.get())

    async def job() -> None:
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    context = copy_context()
    context.run(var.set, "starter")
    await run_in_context(context, job())
    assert seen == ["starter"]


async def test_the_stack_of_its_task_looks_through_it(nursery: trio.Nursery) -> None:
    """Trio's own walk along the frames of the task ends where the job waits."""

    async def job() -> None:
        await trio.sleep_forever()

    async def run() -> None:
        await run_in_context(copy_context(), job())

    nursery.start_soon(run, name="runner")
    await let_run()
    (task,) = (task for task in nursery.child_tasks if task.name == "runner")
    names = [frame.f_code.co_name for frame, _ in task.iter_await_frames()]
    assert names[:3] == ["run", "run_in_context", "job"]
    assert "sleep_forever" in names
    nursery.cancel_scope.cancel()


async def test_a_task_waits_again_and_again_with_one_trap(nursery: trio.Nursery) -> None:
    """it is woken, or calls off its wait and is cancelled, as with Trio's own function."""
    woken: list[int] = []
    aborted: list[str] = []

    def abort(_: object) -> trio.lowlevel.Abort:
        aborted.append("abort")
        return trio.lowlevel.Abort.SUCCEEDED

    async def sleeper() -> None:
        trap = trap_of(abort)
        for number in range(3):
            await wait_again(trap)
            woken.append(number)
        with trio.move_on_after(1):
            await wait_again(trap)
        woken.append(3)
        await wait_again(trap)

    nursery.start_soon(sleeper)
    await let_run()
    (task,) = nursery.child_tasks
    for number in range(3):
        assert woken == list(range(number))
        trio.lowlevel.reschedule(task, WOKEN)
        await let_run()
    await trio.sleep(2)
    assert (woken, aborted) == ([0, 1, 2, 3], ["abort"])
    nursery.cancel_scope.cancel()
    await let_run()
    assert aborted == ["abort", "abort"]


async def test_what_wakes_a_task_reaches_it_through_a_trap(nursery: trio.Nursery) -> None:
    """an error that it is woken with is raised where it waits."""
    caught: list[BaseException] = []

    async def sleeper() -> None:
        try:
            await wait_again(trap_of(lambda _: trio.lowlevel.Abort.SUCCEEDED))
        except OSError as exc:
            caught.append(exc)

    nursery.start_soon(sleeper)
    await let_run()
    (task,) = nursery.child_tasks
    error = OSError("woken with this")
    trio.lowlevel.reschedule(task, outcome.Error(error))
    await let_run()
    assert caught == [error]
