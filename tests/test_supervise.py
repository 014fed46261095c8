"""supervise: the restart loop of service workers without an app."""

from __future__ import annotations

import random
import sys

import pytest
import trio
from support import stray_cancelled
from trio.testing import MockClock, assert_checkpoints

from trio_modules import Backoff, Restart, RestartNow, supervise

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Script:
    """A function that writes down when its runs begin, raises what it is told, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = iter(errors)
        self.begun: list[float] = []

    async def run(self) -> str:
        self.begun.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        for error in self.errors:
            raise error
        return "done"


def failures(count: int) -> list[BaseException]:
    return [ValueError(number) for number in range(count)]


async def test_it_returns_what_the_function_returns() -> None:
    """supervise calls the function with its arguments and returns its result."""

    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return 2 * number

    assert await supervise(double, 4) == 8


async def test_it_is_a_checkpoint() -> None:
    """supervise is a checkpoint even if the function isn't."""

    async def nothing() -> None:
        pass

    with assert_checkpoints():
        await supervise(nothing)


async def test_failures_restart_after_the_default_backoff(autojump_clock: MockClock) -> None:
    """each failure is followed by two seconds more of backoff, to the point."""
    script = Script(*failures(4))
    assert await supervise(script.run) == "done"
    assert script.begun == [0, 2, 6, 12, 20]


async def test_the_backoff_is_the_policys(autojump_clock: MockClock) -> None:
    """supervise follows the Restart that it is given."""
    script = Script(*failures(4))
    backoff = Backoff(initial=1, growth="exponential", maximum=4)
    await supervise(script.run, restart=Restart(backoff=backoff))
    assert script.begun == [0, 1, 3, 7, 11]


async def test_a_long_run_sets_the_count_back(autojump_clock: MockClock) -> None:
    """a run that lasted reset_after before it failed is followed by the first delay again."""
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())
        if len(begun) < 5:
            await trio.sleep(50 if len(begun) == 3 else 0)
            raise ValueError("no")

    await supervise(work, restart=Restart(backoff=Backoff(initial=2, reset_after=50)))
    assert begun == [0, 2, 6, 56 + 2, 58 + 4]


async def test_jitter_comes_from_the_generator_that_is_given(autojump_clock: MockClock) -> None:
    """the same random generator gives the same restarts, another one gives others."""
    restart = Restart(backoff=Backoff(initial=8, jitter=0.5))

    async def begun(seed: int) -> list[float]:
        script = Script(*failures(5))
        start = trio.current_time()
        await supervise(script.run, restart=restart, rng=random.Random(seed))
        return [round(time - start, 6) for time in script.begun]

    first = await begun(1)
    assert first == await begun(1)
    assert first != await begun(2)


async def test_restart_now_skips_the_backoff(autojump_clock: MockClock) -> None:
    """RestartNow restarts at once."""
    script = Script(RestartNow(), RestartNow())
    await supervise(script.run)
    assert script.begun == [0, 0, 0]


async def test_restart_now_counts(autojump_clock: MockClock) -> None:
    """RestartNow beyond the budget is raised."""
    script = Script(*[RestartNow() for _ in range(5)])
    with pytest.raises(RestartNow):
        await supervise(script.run, restart=Restart(max_restarts=2))
    assert script.begun == [0, 0, 0]


async def test_restart_now_lets_others_run(autojump_clock: MockClock) -> None:
    """a function that only says RestartNow neither blocks the loop nor escapes cancellation."""
    runs: list[int] = []

    async def spin() -> None:
        runs.append(1)
        raise RestartNow

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, spin)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 2 < len(runs) < 100


async def test_over_budget_it_raises_the_last_exception(autojump_clock: MockClock) -> None:
    """beyond the budget the exception of the last run is raised, at once."""
    errors = failures(5)
    script = Script(*errors)
    with pytest.raises(ValueError, match="2") as caught:
        await supervise(script.run, restart=Restart(max_restarts=2))
    assert caught.value is errors[2]
    assert script.begun == [0, 2, 6]
    assert trio.current_time() == 6


async def test_on_failure_may_be_sync(autojump_clock: MockClock) -> None:
    """on_failure is called with each exception that restarts, not with the one that is raised."""
    errors = failures(3)
    seen: list[tuple[BaseException, float]] = []
    with pytest.raises(ValueError, match="2"):
        await supervise(
            Script(*errors).run,
            restart=Restart(max_restarts=2),
            on_failure=lambda error: seen.append((error, trio.current_time())),
        )
    assert seen == [(errors[0], 0), (errors[1], 2)]


async def test_on_failure_may_be_async(autojump_clock: MockClock) -> None:
    """an async on_failure is awaited before the next run."""
    log: list[str] = []

    async def note(error: BaseException) -> None:
        await trio.sleep(10)
        log.append(f"noted {error}")

    async def work() -> None:
        log.append("runs")
        if len(log) == 1:
            raise ValueError("no")

    await supervise(work, on_failure=note)
    assert log == ["runs", "noted no", "runs"]


async def test_a_failing_on_failure_is_raised(autojump_clock: MockClock) -> None:
    """an exception of on_failure itself ends the loop: somebody has to hear of it."""

    def note(error: BaseException) -> None:
        raise KeyError("on_failure")

    with pytest.raises(KeyError, match="on_failure"):
        await supervise(Script(*failures(2)).run, on_failure=note)


async def test_a_stray_cancelled_is_a_failure(autojump_clock: MockClock) -> None:
    """a Cancelled whose scope is gone, bare or in a group or as a cause, restarts."""
    wrapping = RuntimeError("wraps a cancellation")
    wrapping.__cause__ = await stray_cancelled()
    errors = [
        await stray_cancelled(),
        BaseExceptionGroup("group", [await stray_cancelled()]),
        wrapping,
    ]
    seen: list[BaseException] = []
    script = Script(*errors)
    assert await supervise(script.run, on_failure=seen.append) == "done"
    assert script.begun == [0, 2, 6, 12]
    assert seen == errors


async def test_a_genuine_cancelled_passes(autojump_clock: MockClock) -> None:
    """the caller's cancellation ends it, in a run as well as in the backoff."""
    seen: list[BaseException] = []

    async def sleep_on() -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await supervise(sleep_on, on_failure=seen.append)
    assert scope.cancelled_caught
    script = Script(*failures(1))
    with trio.move_on_after(1) as scope:
        await supervise(script.run, on_failure=seen.append)
    assert scope.cancelled_caught
    assert trio.current_time() == 2
    assert len(seen) == 1


async def test_an_exception_beside_a_genuine_cancelled(autojump_clock: MockClock) -> None:
    """what is raised while the caller's cancellation arrives isn't lost and doesn't restart."""
    runs: list[int] = []
    error = ValueError("while leaving")

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def work() -> None:
        runs.append(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(1):
        await supervise(work)
    assert list(caught.value.exceptions) == [error]
    assert runs == [1]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_other_base_exceptions_pass(error: BaseException) -> None:
    """a non-Exception isn't a failure to restart."""
    script = Script(error)
    with pytest.raises(type(error)) as caught:
        await supervise(script.run)
    assert caught.value is error
    assert len(script.begun) == 1


async def test_a_policy_that_is_none(autojump_clock: MockClock) -> None:
    """what isn't a Restart is refused before the function runs."""
    ran = False

    async def run() -> None:
        nonlocal ran
        ran = True

    with pytest.raises(TypeError, match=r"restart must be a Restart, got Backoff\("):
        await supervise(run, restart=Backoff())  # type: ignore[arg-type]
    assert not ran
