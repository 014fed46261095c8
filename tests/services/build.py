"""Build a real service from its plan, run it, and record what its user code sees."""

from __future__ import annotations

import random
import signal
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from types import FrameType
from typing import Any, NoReturn

import trio
import trio.testing
from support import deterministic_scheduling

from services import plan as plans
from services.ask_work import WorkAsker
from services.generate import generate
from services.perform import AsyncFn, Source, named
from services.record import BaseExceptionGroup, Recorder, Run, leaves
from trio_modules import App, Backoff, Event, Module, ModuleOffline, Resource, Restart, Task

LONGEST = 3000.0
MOST_STEPS = 100_000
REAL_SECONDS = 90.0
AFTERWARDS = 50.0
EVERYTHING = 100_000
SYNC = (
    plans.StartTask,
    plans.CancelNursery,
    plans.RequestShutdown,
    plans.CancelBlock,
    plans.Extend,
)
LIFECYCLE = frozenset({"prep", "start", "stop", "enter", "exit"})
EPOCH = datetime(2024, 2, 29, tzinfo=timezone.utc)


class Service(WorkAsker):
    """Modules and an app made from a plan, whose functions write down what they do."""

    def __init__(self, plan: plans.ServicePlan) -> None:
        self.plan = plan
        self.executions: Counter[str] = Counter()
        self.values: dict[tuple[str, str], str] = {}
        self.resources: dict[tuple[str, str], Resource[str]] = {}
        self.tasks: dict[tuple[str, str], Task] = {}
        self.delays: dict[str, float] = {}
        self.events: dict[str, Event[int]] = {}
        self.modules: dict[str, Module] = {}
        for module in plan.all_modules:
            self.modules[module.name] = self.build(module)
        self.app = App(
            *(self.modules[module.name] for module in plan.modules),
            prep=None if plan.prep is None else self.function("prep", "", plan.prep),
            command=None if plan.command is None else self.function("command", "", plan.command),
            managed=plan.managed,
            start_timeout=plan.start_timeout,
            stop_timeout=plan.stop_timeout,
            max_concurrent_restarts=plan.max_concurrent_restarts,
            restart_settle=plan.restart_settle,
            max_concurrent_tasks=plan.max_concurrent_tasks,
            max_concurrent_microtasks=plan.max_concurrent_microtasks,
            min_repeat_interval=plan.min_repeat_interval,
            rng=random.Random(plan.seed),
            epoch=EPOCH,
        )
        self.scope = trio.CancelScope()

    # declarations

    def build(self, plan: plans.ModulePlan) -> Module:
        module = Module(
            plan.name,
            depends_on=plan.depends_on,
            wants=plan.wants,
            enabled=plan.enabled,
            start_timeout=plan.start_timeout,
            stop_timeout=plan.stop_timeout,
            restart=restart(plan.restart),
        )
        for func in plan.prep:
            module.on_prep(self.function("prep", plan.name, func))
        for func in plan.start:
            module.on_start(self.function("start", plan.name, func))
        for func in plan.stop:
            module.on_stop(self.function("stop", plan.name, func))
        for lifespan in plan.lifespans:
            resource = module.lifespan(self.lifespan(plan.name, lifespan))
            self.resources[plan.name, lifespan.name] = resource
        self.declare_workers(module, plan)
        self.declare_work(module, plan)
        return module

    def declare_workers(self, module: Module, plan: plans.ModulePlan) -> None:
        for worker in plan.workers:
            fn = self.function("worker", plan.name, worker.func)
            module.worker(fn, grace_period=worker.grace)
        for service in plan.services:
            module.service_worker(
                self.service(plan.name, service),
                restart=restart(service.restart),
                restart_on_return=service.on_return,
                grace_period=service.grace,
            )
        for periodic in plan.periodics:
            module.every(
                periodic.interval,
                self.function("every", plan.name, periodic.func),
                immediately=periodic.immediately,
                jitter=periodic.jitter,
                missed=periodic.missed,
            )

    def function(self, role: str, module: str, func: plans.Func) -> AsyncFn:
        async def user_function() -> object:
            return await self.execute(role, module, func)

        return named(user_function, func.name)

    def service(self, module: str, plan: plans.Service) -> Callable[..., Awaitable[object]]:
        ready_after = plan.ready_after
        if ready_after is None:
            return self.function("service", module, plan.func)

        async def ready_service(
            *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            async def get_ready() -> None:
                await trio.sleep(ready_after)
                task_status.started()

            await self.execute("service", module, plan.func, get_ready)

        return named(ready_service, plan.func.name)

    def lifespan(
        self, module: str, plan: plans.Lifespan
    ) -> Callable[[], AsyncGenerator[str, None]]:
        async def span() -> AsyncGenerator[str, None]:
            await self.execute("enter", module, plan.enter)
            recorder = self.recorder
            token = recorder.begin("span", module, plan.name)
            value = f"{module}/{plan.name}#{token}"
            self.values[module, plan.name] = value
            failure: BaseException | None = None
            try:
                if plan.child is None:
                    yield value
                    await self.execute("exit", module, plan.exit)
                else:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self.execute, "child", module, plan.child)
                        yield value
                        await self.execute("exit", module, plan.exit)
                        nursery.cancel_scope.cancel()
            except BaseException as exc:
                failure = exc
                raise
            finally:
                del self.values[module, plan.name]
                recorder.end(token, failure)

        return named(span, plan.name)

    async def ask_now(self, call: plans.Call, source: Source, token: int) -> str:
        if isinstance(call, plans.StartWorker):
            return await self.ask_start_worker(call)
        if isinstance(call, plans.RunWorker):
            return await self.ask_run_worker(call)
        if isinstance(call, plans.CallGuarded):
            return await self.ask_guarded(call)
        if isinstance(call, plans.StartService):
            return await self.ask_start_service(call)
        if isinstance(call, plans.ChangeWishes | plans.RestartIt):
            return await self.ask_change(call, source)
        if isinstance(call, plans.AddModules | plans.RemoveIt):
            return await self.ask_registry(call)
        if isinstance(call, plans.ReadResource):
            return self.ask_resource(call)
        if isinstance(call, plans.AwaitOnline):
            return await self.ask_online(call)
        if isinstance(call, plans.AwaitShutdown):
            return await self.ask_shutdown(call, source)
        if isinstance(call, SYNC):
            return self.ask_sync(call)
        return await self.ask_work(call, source, token)

    def ask_sync(self, call: plans.Call) -> str:
        if isinstance(call, plans.StartTask):
            module = self.modules[call.module]
            module.nursery.start_soon(self.execute, "task", call.module, call.func)
            return "accepted"
        if isinstance(call, plans.CancelNursery):
            self.modules[call.module].nursery.cancel_scope.cancel()
        elif isinstance(call, plans.RequestShutdown):
            self.app.request_shutdown(call.reason)
        elif isinstance(call, plans.CancelBlock):
            self.scope.cancel()
        elif isinstance(call, plans.Extend):
            self.modules[call.module].extend_timeout(call.seconds)
        return "done"

    async def ask_start_worker(self, call: plans.StartWorker) -> str:
        module = self.modules[call.module]
        if call.cancel_after is None:
            fn = self.function("worker", call.module, call.func)
            module.start_worker(fn, grace_period=call.grace)
            return "accepted"
        scope = trio.CancelScope()
        fn = self.function("scoped", call.module, call.func)
        module.start_worker(fn, grace_period=call.grace, cancel_scope=scope)
        await trio.sleep(call.cancel_after)
        scope.cancel()
        return "accepted"

    async def ask_run_worker(self, call: plans.RunWorker) -> str:
        fn = self.function("run", call.module, call.func)
        with trio.move_on_after(call.patience) as scope:
            await self.modules[call.module].run_worker(fn)
        return "gave up" if scope.cancelled_caught else "ran"

    async def ask_guarded(self, call: plans.CallGuarded) -> str:
        fn = self.function("guarded", call.module, call.func)
        with trio.move_on_after(call.patience) as scope:
            await self.modules[call.module].guarded(fn)()
        return "gave up" if scope.cancelled_caught else "ran"

    async def ask_start_service(self, call: plans.StartService) -> str:
        handle = self.modules[call.module].start_service_worker(
            self.service(call.module, call.service),
            restart=restart(call.service.restart),
            restart_on_return=call.service.on_return,
            grace_period=call.service.grace,
        )
        if call.cancel_after is not None:
            await trio.sleep(call.cancel_after)
            handle.cancel("no longer needed")
        await handle.wait()
        if handle.state not in ("ended", "gave-up"):
            self.recorder.wrong(f"wait() returned while {handle.name} is {handle.state}")
        return handle.state

    async def ask_change(self, call: plans.ChangeWishes | plans.RestartIt, source: Source) -> str:
        recorder = self.recorder
        recorder.wishes += 1
        wishes = recorder.wishes
        if isinstance(call, plans.RestartIt):
            with trio.move_on_after(call.patience) as scope:
                await self.app.restart(self.modules[call.module], "the test says so")
        else:
            for name in call.enable:
                self.modules[name].enable()
            for name in call.disable:
                self.modules[name].disable()
            if not call.manage:
                return "wished"
            with trio.move_on_after(call.patience) as scope:
                await self.app.manage()
        if scope.cancelled_caught:
            return "gave up"
        if source[0] in LIFECYCLE:
            recorder.wrong(f"{type(call).__name__} in a lifecycle function was no error")
        if wishes == recorder.wishes and not isinstance(call, plans.RestartIt):
            self.note_settled()
        return "settled"

    def note_settled(self) -> None:
        """Say which modules should be online now, if nothing stands against it."""
        known = dict(self.app.modules)
        if any(module.failures for module in known.values()):
            return
        self.recorder.note("settled", text=" ".join(sorted(self.wanted())))

    def wanted(self) -> set[str]:
        known = dict(self.app.modules)
        graph = self.plan.hard_dependencies()
        todo = [name for name in known if not self.plan.managed or known[name].enabled]
        wanted: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in wanted:
                wanted.add(name)
                todo += graph[name]
        return wanted

    async def ask_registry(self, call: plans.AddModules | plans.RemoveIt) -> str:
        self.recorder.wishes += 1
        with trio.move_on_after(call.patience) as scope:
            if isinstance(call, plans.RemoveIt):
                await self.app.remove(self.modules[call.module])
                if call.module in self.app:
                    self.recorder.wrong(f"{call.module} was removed and is still there")
            else:
                added = [self.modules[plan.name] for plan in call.modules]
                owner = None if call.owner is None else self.modules[call.owner]
                await self.app.add(*added, owner=owner)
        return "gave up" if scope.cancelled_caught else "done"

    def ask_resource(self, call: plans.ReadResource) -> str:
        key = (call.module, call.lifespan)
        try:
            value = self.resources[key].value
        except ModuleOffline:
            if self.modules[call.module].online and key in self.values:
                self.recorder.wrong(f"the resource of {call.module}, online, can't be read")
            return "offline"
        if value != self.values.get(key):
            self.recorder.wrong(f"{key} is {value}, not {self.values.get(key)}")
        return value

    async def ask_online(self, call: plans.AwaitOnline) -> str:
        with trio.move_on_after(call.patience) as scope:
            await self.modules[call.module].wait_online()
        return "gave up" if scope.cancelled_caught else "online"

    async def ask_shutdown(self, call: plans.AwaitShutdown, source: Source) -> str:
        with trio.move_on_after(call.patience) as scope:
            await self.app.shutdown()
        if scope.cancelled_caught:
            return "gave up"
        if source[0] in LIFECYCLE:
            self.recorder.wrong(f"shutdown() returned in {source[0]}")
        return "stopped"

    # the block

    async def live(self, number: int) -> Run:
        """Run the service for the how manieth time."""
        # They may have been changed in an earlier life.
        limits = (self.app.max_concurrent_tasks, self.app.max_concurrent_microtasks)
        cancelled = frozenset(name for (_, name), task in self.tasks.items() if task.cancelled)
        run = Run(self.plan, limits, cancelled, dict(self.delays), number)
        self.recorder = recorder = Recorder(self.app, run, self.modules)
        self.scope = trio.CancelScope()
        recorder.deadline = trio.current_time() + LONGEST
        CURRENT.recorder = recorder
        async with trio.open_nursery() as harness:
            harness.start_soon(self.watch)
            for moment, call in self.plan.outside_calls:
                harness.start_soon(self.ask_from_outside, moment, call)
            await trio.testing.wait_all_tasks_blocked()
            with self.scope:
                await self.block(run)
            recorder.note("block", what="over")
            await trio.sleep(AFTERWARDS)
            recorder.note("block", what="long over")
            harness.cancel_scope.cancel()
        run.steps = recorder.step
        return run

    async def block(self, run: Run) -> None:
        recorder = self.recorder
        async with self.app.reports(EVERYTHING) as reports, self.app.changes(EVERYTHING) as changes:
            before = trio.lowlevel.current_statistics().tasks_living
            try:
                async with self.app:
                    await self.body(run)
            except BaseException as exc:
                run.left = exc
                cancelled = all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc))
                if cancelled and self.scope.cancel_called:
                    raise
            finally:
                after = trio.lowlevel.current_statistics().tasks_living
                run.tasks = (before, after)
                recorder.note("block", what="left", text=recorder.outcome(run.left))
                recorder.close()
                run.reports = drain(reports)
                run.changes = drain(changes)

    async def body(self, run: Run) -> None:
        text = "started" if self.app.started.is_set() else ""
        self.recorder.note("block", what="body", text=text)
        if not self.recorder.wishes:
            self.note_settled()
        try:
            await self.act_out_body()
        except BaseException as exc:
            self.recorder.note("block", what="body over", text=self.recorder.outcome(exc))
            if any(not isinstance(leaf, trio.Cancelled) for leaf in leaves(exc)):
                run.body_failure = exc
                run.body_failed_at = len(run.records)
            raise
        self.recorder.note("block", what="body over")

    async def act_out_body(self) -> None:
        failures: list[BaseException] = []
        try:
            await self.act_in_nursery(failures)
        except BaseException as exc:
            if not failures:
                raise
            # It fails with all that went wrong in it; its cancellation is over, as it were.
            if any(not isinstance(leaf, trio.Cancelled) for leaf in leaves(exc)):
                failures.append(exc)
        if len(failures) > 1:
            raise BaseExceptionGroup("the body failed", failures)
        if failures:
            raise failures[0]

    async def act_in_nursery(self, failures: list[BaseException]) -> None:
        async with trio.open_nursery() as nursery:
            for moment, call in self.plan.body_calls:
                nursery.start_soon(self.ask_later, moment, call)
            try:
                await self.execute("body", "", self.plan.body)
            except Exception as exc:
                failures.append(exc)
            nursery.cancel_scope.cancel()

    async def ask_later(self, moment: float, call: plans.Call) -> None:
        await trio.sleep(moment)
        await self.ask(call, ("call", "", 0))

    async def ask_from_outside(self, moment: float, call: plans.Call) -> None:
        await trio.sleep(moment)
        await self.ask(call, ("outside", "", 0))
        # The number of living tasks is compared, so none of ours goes away meanwhile.
        await trio.sleep_forever()

    async def watch(self) -> None:
        """Give the clock something to jump to when nothing else happens any more."""
        await trio.sleep(LONGEST)


def restart(plan: plans.RestartPlan) -> Restart:
    """Make the real thing from its plan."""
    backoff = Backoff(
        initial=plan.initial,
        growth=plan.growth,
        maximum=plan.maximum,
        jitter=plan.jitter,
        reset_after=plan.reset_after,
    )
    return Restart(
        max_restarts=plan.max_restarts,
        within=plan.within,
        backoff=backoff,
        cover_start=plan.cover_start,
        exhausted=plan.exhausted,
    )


def drain(channel: trio.MemoryReceiveChannel[Any]) -> list[Any]:
    """Take all that has been sent; the run of the app has ended, so more doesn't come."""
    found = []
    while True:
        try:
            found.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return found


class Current:
    """Which recorder the instrument talks to."""

    recorder: Recorder | None = None


CURRENT = Current()


class TooLongError(BaseException):
    """The service didn't come to an end."""


class Steps(trio.abc.Instrument):
    """Looks at the service after every step of the scheduler, and ends a run that hangs."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.clock = clock

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        recorder = CURRENT.recorder
        if recorder is None or recorder.run.hang:
            return
        recorder.step += 1
        recorder.sync()
        if recorder.step > MOST_STEPS or trio.current_time() >= recorder.deadline:
            self.abort(recorder.run)

    @contextmanager
    def real_time_limit(self, what: str) -> Iterator[None]:
        """End what takes too long by a real clock, even if no step of it ends."""

        def too_late(_: int, frame: FrameType | None) -> NoReturn:
            if CURRENT.recorder is not None:
                self.abort(CURRENT.recorder.run)
            where = "".join(traceback.format_stack(frame))
            raise TooLongError(f"{what} takes more than {REAL_SECONDS:g} real seconds:\n{where}")

        before = signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, REAL_SECONDS, 1.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def abort(self, run: Run) -> None:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        run.hang = run.hang or "\n".join(task_tree(root))
        HUNG.append(root)
        # The block ignores cancellation, as it should, so the event loop itself has to end.
        clock: Any = self.clock
        clock.current_time = too_long


# What hangs is kept for ever: collecting its coroutines would run them outside of any event loop.
HUNG: list[trio.lowlevel.Task] = []


def too_long() -> NoReturn:
    """Raise in place of telling the time."""
    raise TooLongError


def task_tree(task: trio.lowlevel.Task, indent: int = 0) -> Iterator[str]:
    """Yield a line for each task below *task*, with the innermost places where it waits."""
    frames = [f"{frame.f_code.co_name}:{line}" for frame, line in task.iter_await_frames()]
    yield f"{'  ' * indent}{task.name} at {' > '.join(frames[-6:])}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from task_tree(child, indent + 1)


def run_seed(seed: int) -> list[Run]:
    """Run the service that *seed* stands for, as often as its plan says."""
    return run_plan(generate(seed))


def run_plan(plan: plans.ServicePlan) -> list[Run]:
    """Run a service under a virtual clock, with the scheduling that its seed gives."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    runs: list[Run] = []
    steps = Steps(clock)

    async def main() -> None:
        service = Service(plan)
        runs.extend([await service.live(number) for number in range(plan.rounds)])

    with deterministic_scheduling(plan.seed), steps.real_time_limit(f"seed {plan.seed}"):
        try:
            trio.run(main, clock=clock, instruments=[steps])
        except (trio.TrioInternalError, TooLongError):
            assert CURRENT.recorder is not None
            if not CURRENT.recorder.run.hang:
                raise
            runs.append(CURRENT.recorder.run)
        finally:
            CURRENT.recorder = None
    return runs
