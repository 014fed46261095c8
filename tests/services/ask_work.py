"""Tasks, microtasks, events and hooks of a service made from its plan, and how they are used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from services import plan as plans
from services.perform import AsyncFn, Performer, Source, named
from trio_modules import (
    Backoff,
    Event,
    EventDeadlock,
    GraphError,
    Module,
    ModuleOffline,
    Occurrence,
    Task,
)

__all__ = ["WorkAsker"]

ROLES = {"run": "microrun", "start": "micro", "slot": "slot"}


class WorkAsker(Performer):
    """What a service does beyond workers."""

    tasks: dict[tuple[str, str], Task]
    delays: dict[str, float]
    events: dict[str, Event[int]]

    def function(self, role: str, module: str, func: plans.Func) -> AsyncFn:
        """Make the function that stands for *func*."""
        raise NotImplementedError

    # ------------------------------------------------------------ declarations

    def declare_work(self, module: Module, plan: plans.ModulePlan) -> None:
        for task in plan.tasks:
            self.tasks[plan.name, task.func.name] = self.make_task(module, plan.name, task)
        for name in plan.events:
            self.events[f"{plan.name}/{name}"] = module.event(name, int)
        for hook in plan.hooks:
            self.declare_hook(module, plan.name, hook)

    def make_task(self, module: Module, owner: str, plan: plans.TaskPlan) -> Task:
        fn = self.job(owner, plan.func)
        if not plan.declared:
            return module.new_task(fn)
        return module.task(
            fn,
            every=plan.every,
            cron=None if plan.cron is None else f"*/{plan.cron} * * * * *",
            at=plan.at,
            jitter=plan.jitter,
            misfire=plan.misfire,
        )

    def job(self, owner: str, func: plans.Func) -> Callable[[Task], Awaitable[str]]:
        async def user_job(task: Task) -> str:
            if not task.executing or task is not self.tasks[owner, func.name]:
                self.recorder.wrong(f"{task!r} is given to an execution of {func.name}")
            return await self.execute("job", owner, func, details=f" {task.attempt}")

        return named(user_job, func.name)

    def declare_hook(self, module: Module, owner: str, plan: plans.HookPlan) -> None:
        async def user_hook(data: int | Sequence[int]) -> None:
            serials = [data] if isinstance(data, int) else data
            if isinstance(data, int) is not (plan.batch is None):
                self.recorder.wrong(f"{plan.func.name} is given {data!r}")
            details = "".join(f" {serial}" for serial in serials)
            await self.execute("hook", owner, plan.func, details=details)

        module.hook(
            plan.event,
            named(user_hook, plan.func.name),
            buffer=plan.buffer,
            overflow=plan.overflow,
            concurrency=plan.concurrency,
            batch=plan.batch,
            retry=None if plan.retry is None else Backoff(plan.retry, maximum=2.0),
        )

    # ------------------------------------------------------------ questions

    async def ask_work(self, call: plans.Call, source: Source, token: int) -> str:
        if isinstance(call, plans.OrderTask):
            return self.ask_order(call)
        if isinstance(call, plans.AwaitTask):
            return await self.ask_wait(call)
        if isinstance(call, plans.RunMicrotask):
            return await self.ask_microtask(call)
        if isinstance(call, plans.Trigger):
            return await self.ask_trigger(call)
        if isinstance(call, plans.Subscribe):
            return await self.ask_subscribe(call, token)
        if isinstance(call, plans.Inject):
            return self.ask_inject(call)
        if isinstance(call, plans.AddHook):
            self.declare_hook(self.modules[call.module], call.module, call.hook)
            return "accepted"
        assert isinstance(call, plans.SetLimit)
        setattr(self.app, call.what, call.value)
        return "done"

    def ask_order(self, call: plans.OrderTask) -> str:
        task = self.tasks[call.module, call.task]
        order, seconds = call.order, call.seconds
        if order == "schedule":
            task.schedule(trio.current_time() + seconds)
        elif order == "unschedule":
            task.schedule(None)
        elif order == "max_delay":
            self.delays[call.task] = seconds
            task.max_delay(seconds)
        elif order in ("schedule_after", "repeat"):
            getattr(task, order)(seconds)
        else:
            getattr(task, order)()
        return f"accepted {task.queued:d} {task.executing:d} {task.next_run}"

    async def ask_wait(self, call: plans.AwaitTask) -> str:
        with trio.move_on_after(call.patience) as scope:
            value = await self.tasks[call.module, call.task].wait()
            return f"ran {value}"
        assert scope.cancelled_caught
        return "gave up"

    async def ask_microtask(self, call: plans.RunMicrotask) -> str:
        module = self.modules[call.module]
        fn = self.function(ROLES[call.way], call.module, call.func)
        if call.way == "start":
            module.start_microtask(fn, priority=call.priority, max_delay=call.max_delay)
            return "accepted"
        with trio.move_on_after(call.patience) as scope:
            if call.way == "run":
                await module.run_microtask(fn, priority=call.priority, max_delay=call.max_delay)
            else:
                slot = module.microtask_slot(priority=call.priority, max_delay=call.max_delay)
                async with slot:
                    await fn()
        return "gave up" if scope.cancelled_caught else "ran"

    # ------------------------------------------------------------ events

    async def ask_trigger(self, call: plans.Trigger) -> str:
        answers = [await self.send(call) for _ in range(call.count)]
        return " ".join(answers)

    async def send(self, call: plans.Trigger) -> str:
        """Trigger an event once; what became of that."""
        event, serial = self.events[call.event], self.recorder.send(call.event)
        answer = "cancelled"
        try:
            if call.nowait:
                event.trigger_nowait(serial)
                answer = "sent"
            else:
                with trio.move_on_after(call.patience):
                    await event.trigger(serial)
                    answer = "sent"
        except trio.WouldBlock:
            answer = "full"
        except ModuleOffline:
            answer = "offline"
        except EventDeadlock:
            answer = "deadlock"
        finally:
            self.recorder.sent(call.event, serial, answer, nowait=call.nowait)
        return answer

    def ask_inject(self, call: plans.Inject) -> str:
        serial = self.recorder.send(call.event)
        answer = "sent"
        try:
            self.modules[call.module].inject_event("elsewhere", call.event, serial)
        except trio.WouldBlock:
            answer = "full"
        except ModuleOffline:
            answer = "offline"
        except GraphError:
            answer = "unknown"
        self.recorder.sent(call.event, serial, answer, nowait=True)
        return answer

    async def ask_subscribe(self, call: plans.Subscribe, token: int) -> str:
        recorder = self.recorder
        what = call.event or ""
        with trio.move_on_after(call.seconds):
            source = self.app if call.event is None else self.events[call.event]
            async with source.subscribe(call.buffer) as channel:
                recorder.note("listen", call.module, what, token, str(call.buffer))
                async for item in channel:
                    if isinstance(item, Occurrence):
                        recorder.note("heard", "", item.event.full_name, token, str(item.data))
                    else:
                        recorder.note("heard", call.module, what, token, str(item))
        recorder.note("deaf", call.module, what, token)
        return "listened"
