"""Check what was seen of a service against the promises that hold for every service.

Nothing here knows how the package works: a rule speaks of what user code saw begin and end, in
which order, and of what the public statuses said at each step. Where a promise leaves room, the
rule takes the side of the package.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import trio

from services.check_events import EventRules
from services.check_microtasks import MicrotaskRules
from services.check_restarts import RestartRules
from services.check_tasks import TaskRules
from services.plan import (
    AwaitShutdown,
    CallGuarded,
    RemoveIt,
    RunMicrotask,
    RunWorker,
    ServicePlan,
    StartWorker,
)
from services.record import BaseExceptionGroup, Made, Record, Run, leaves, parts
from services.seen import EPSILON, Seen, function_of
from trio_modules import (
    GraphError,
    ModuleCrashed,
    ModuleStatus,
    RestartModule,
    ShutdownError,
    StartError,
)

DEAD, OFFLINE = ModuleStatus.DEAD, ModuleStatus.OFFLINE
PREPARING, STARTING = ModuleStatus.PREPARING, ModuleStatus.STARTING
STOPPING, ONLINE = ModuleStatus.STOPPING, ModuleStatus.ONLINE

MICROTASKS = frozenset({"microrun", "micro", "slot"})
HURRIED = frozenset({"worker", "service", "every", "job", "micro", "hook", "stop", "exit"})
WORK = frozenset(
    {"worker", "scoped", "service", "every", "run", "guarded", "task", "job", "hook", *MICROTASKS}
)
GRACELESS = frozenset({"run", "guarded", "microrun", "micro", "job", "every", "task", "hook"})
# An exception of other work is reported, or raised to who runs it, and that is all.
CRASHING = frozenset({"service", "every", "task", "child"})
CHANGES = frozenset({"ChangeWishes", "RestartIt", "AddModules", "RemoveIt"})
LEGAL = {
    (DEAD, PREPARING),
    (DEAD, OFFLINE),
    (OFFLINE, PREPARING),
    (PREPARING, OFFLINE),
    (PREPARING, DEAD),
    (OFFLINE, STARTING),
    (STARTING, ONLINE),
    (STARTING, STOPPING),
    (STARTING, OFFLINE),
    (ONLINE, STOPPING),
    (STOPPING, OFFLINE),
    (OFFLINE, DEAD),
}
# What only a fault in the package itself can raise here.
INTERNAL = (
    AssertionError,
    AttributeError,
    IndexError,
    RecursionError,
    StopAsyncIteration,
    TypeError,
    UnboundLocalError,
    trio.TrioInternalError,
)
#: How long after an interrupt what doesn't answer counts as left behind, at the latest.
MOMENT = 0.1


class TraceChecker:
    """Walks through a trace and collects what is against the rules."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.plan = run.plan
        self.errors: list[str] = []
        self.seen = {plan.name: Seen(plan) for plan in self.plan.all_modules}
        self.hard = self.plan.hard_dependencies()
        self.dependents: dict[str, list[str]] = defaultdict(list)
        self.soft_dependents: dict[str, list[str]] = defaultdict(list)
        for name, others in self.hard.items():
            for other in others:
                self.dependents[other].append(name)
            for other in self.seen[name].plan.wants:
                self.soft_dependents[other].append(name)
        self.shutdown_at: float | None = None
        self.shutdown_with: int | None = None
        self.body_shuts_down = False
        self.body_open = False
        self.body_seen = False
        self.left = False
        self.changed = False
        self.control = False
        self.may_hurry = False
        self.control_at: float | None = None
        self.body_interrupted = False
        self.removing: set[str] = set()
        self.extended: set[str] = set()
        self.made = {made.serial: made for made in run.made.values()}
        self.trouble = False
        self.fallen = False
        self.calls: dict[int, tuple[Record, ModuleStatus, int]] = {}
        self.open_changes: set[int] = set()
        self.cancelled_by_caller: set[str] = set()
        self.refused: set[str] = set()
        self.callers: dict[str, str] = {}
        self.waiting: dict[int, tuple[str, float | None]] = {}
        self.now = 0.0
        self.number = 0
        self.record: Record | None = None
        self.microtasks = MicrotaskRules(self)
        self.events = EventRules(self)
        self.tasks = TaskRules(self, self.microtasks)
        self.rules = (self.tasks, self.microtasks, self.events, RestartRules(self))

    def fail(self, text: str) -> None:
        self.errors.append(f"{text}\n      at {self.record}")

    def check(self) -> list[str]:
        handlers = {
            "status": self.on_status,
            "shutdown": self.on_shutdown,
            "begin": self.on_begin,
            "end": self.on_end,
            "call": self.on_call,
            "return": self.on_return,
            "made": self.on_made,
            "block": self.on_block,
            "settled": self.on_settled,
            "wrong": self.on_wrong,
            **self.events.handlers,
        }
        for number, record in enumerate(self.run.records):
            self.record, self.number = record, number
            if record.time > self.now + EPSILON:
                self.check_rest()
                for rules in self.rules:
                    rules.advance(record.time)
            self.now = record.time
            handlers[record.kind](record)
        for rules in self.rules:
            rules.finish()
        return self.errors

    def on_wrong(self, record: Record) -> None:
        self.fail(record.text)

    # ------------------------------------------------------------ statuses

    def on_status(self, record: Record) -> None:
        if self.left:
            self.fail("a status changed after the block")
        for name, before, after in record.moves:
            module = self.seen[name]
            module.status, module.since = after, self.now
            module.ever_online = module.ever_online or after is ONLINE
            failed = before is STARTING and after is not ONLINE
            self.fallen = self.fallen or failed or after is STOPPING
            self.trouble = self.trouble or failed
        for name, before, after in record.moves:
            self.check_move(self.seen[name], before, after)
        for name, before, after in record.moves:
            self.check_online(name)
            for rules in self.rules:
                rules.on_move(name, before, after)

    def check_move(self, module: Seen, before: ModuleStatus, after: ModuleStatus) -> None:
        if before > OFFLINE and (after <= OFFLINE or after is STARTING):
            self.check_end_of_run(module)
        if after is STARTING or (after is ONLINE and before is not STARTING):
            self.check_start_of_run(module)
            module.new_run()
        if after is ONLINE:
            module.was_online = True
            self.now_online(module.plan.name)
        if after is STOPPING:
            module.fell_at_shutdown = before is ONLINE and self.stops_for_shutdown()
            module.fell_with, module.fell_for_body = self.number, self.body_holds_all()
            self.check_turn(module, before)

    def now_online(self, name: str) -> None:
        for token, (awaited, since) in self.waiting.items():
            if awaited == name and since is None:
                self.waiting[token] = (name, self.now)

    def check_online(self, name: str) -> None:
        """A module is online only while all that it depends on is online."""
        for upper, lower in self.edges_of(name):
            if self.seen[upper].status is ONLINE and self.seen[lower].status is not ONLINE:
                status = self.seen[lower].status.name
                self.fail(f"{upper} is ONLINE while {lower}, which it depends on, is {status}")

    def edges_of(self, name: str) -> Iterator[tuple[str, str]]:
        yield from ((name, lower) for lower in self.hard[name])
        yield from ((upper, name) for upper in self.dependents[name])

    def check_start_of_run(self, module: Seen) -> None:
        """A run begins when all dependencies are online and nothing of the last one is left."""
        name = module.plan.name
        for lower in self.hard[name]:
            if self.seen[lower].status is not ONLINE:
                self.fail(f"{name} starts while {lower} is {self.seen[lower].status.name}")
        if module.open:
            self.fail(f"a run of {name} begins while this of the last one goes on: {module.open}")
        if self.plan.managed or self.body_seen or module.runs or self.fallen:
            return
        for lower in module.plan.wants:
            if lower in self.removing:
                continue
            other = self.seen[lower]
            if not other.ever_online and (other.runs == 0 or other.status > OFFLINE):
                self.fail(f"{name} starts before {lower}, which it wants, was started")

    def check_end_of_run(self, module: Seen) -> None:
        """Offline means that nothing of the module runs and all of it was stopped."""
        name, plan = module.plan.name, module.plan
        if module.open:
            self.fail(f"{name} is offline while this goes on: {list(module.open.values())}")
        if module.spans:
            self.fail(f"{name} is offline, and these lifespans were not left: {module.spans}")
        expected = [func.name for func in reversed(plan.stop)]
        completed = module.was_online or len(module.started) == len(plan.start) > 0
        if completed and module.stopped != expected:
            self.fail(f"the stop functions of {name} ran as {module.stopped}, not as {expected}")
        if plan.start and not completed and module.stopped:
            self.fail(f"{module.stopped} of {name} ran though its start functions did not all")

    def check_turn(self, module: Seen, before: ModuleStatus) -> None:
        """A module stops when all that depend on it are offline, unless something crashed."""
        name = module.plan.name
        running = [other for other in self.dependents[name] if not self.is_over(other)]
        if running and not self.has_crashed(name):
            self.fail(f"{name} stops while {running} depend on it and run")
        in_order = before is ONLINE and not self.has_crashed(name) and not module.troubled
        if in_order and self.body_is_waited_for():
            self.fail(f"{name} stops for the shutdown while the body still runs")

    def stops_for_shutdown(self) -> bool:
        """Whether a module that stops now does so because the app goes down.

        While the body has time to end, what was asked for before goes on, a restart for example.
        """
        if self.shutdown_at is None:
            return False
        has_time = self.now < self.shutdown_at + self.plan.stop_timeout - EPSILON
        return not (self.body_open and has_time and self.open_changes)

    def body_is_waited_for(self) -> bool:
        if not self.body_open or self.shutdown_at is None:
            return False
        acts = self.plan.body.acts
        own = any(isinstance(act.call, AwaitShutdown) for act in acts)
        in_time = self.now < self.shutdown_at + self.plan.stop_timeout - EPSILON
        return in_time and not (own or self.changed or self.may_hurry)

    def body_holds_all(self) -> bool:
        """Whether modules run on until the body is over, and so may be restarted meanwhile."""
        if not self.body_open or self.body_shuts_down:
            return False
        since = self.shutdown_at
        return since is None or self.now < since + self.plan.stop_timeout - EPSILON

    def stops_at_shutdown(self, name: str) -> bool:
        """Whether a module began to stop because of the shutdown, and not for a restart before."""
        module = self.seen[name]
        # The shutdown is written down right after the statuses that changed in the same step.
        asked = self.shutdown_with is not None and self.shutdown_with <= module.fell_with + 1
        return asked and not module.fell_for_body

    def is_over(self, name: str) -> bool:
        """Whether a module is offline, or a leftover that is treated as such."""
        module = self.seen[name]
        if module.status <= OFFLINE:
            return True
        return module.status is STOPPING and (self.is_overdue(module) or self.may_hurry)

    def is_overdue(self, module: Seen) -> bool:
        return self.now >= module.since + self.stop_timeout(module) - EPSILON

    def stop_timeout(self, module: Seen) -> float:
        """How long the module has to stop."""
        timeout = module.plan.stop_timeout
        return self.plan.stop_timeout if timeout is None else timeout

    def no_time_since(self, begun: float) -> bool:
        """Whether an interrupt has left no time to what began to stop then.

        Whoever answers at once isn't left behind, so it takes a moment to show.
        """
        return self.control_at is not None and self.now >= max(begun, self.control_at) + MOMENT

    def has_crashed(self, name: str) -> bool:
        """Whether something in a module, or in what it depends on, may have crashed it."""
        todo, known = [name], {name}
        while todo:
            found = self.seen[todo.pop()]
            if found.troubled and found.status is not ONLINE:
                return True
            fresh = [other for other in self.hard[found.plan.name] if other not in known]
            known.update(fresh)
            todo += fresh
        return False

    # ------------------------------------------------------------ when time goes by

    def check_rest(self) -> None:
        """Time goes by, so all that could happen at once has happened."""
        if self.left:
            return
        for name, module in self.seen.items():
            if module.must_leave is not None:
                self.check_left_online(name, module)
            if module.status is ONLINE and self.shutdown_at is not None and not self.body_open:
                self.check_stops_in_time(name)
            elif module.status is STOPPING:
                if self.no_time_since(module.since):
                    self.check_hurries(name, module)
                self.check_cancels(name, module)
        if not (self.plan.managed or self.body_seen or self.changed or self.trouble):
            self.check_starts_in_time()
        for rules in self.rules:
            rules.rest()

    def check_left_online(self, name: str, module: Seen) -> None:
        """What can't go on doesn't stay online while time goes by."""
        if module.status is ONLINE:
            self.fail(f"{name} is still ONLINE though it crashed at {module.must_leave}")
        module.must_leave = None

    def check_stops_in_time(self, name: str) -> None:
        """At shutdown a module stops as soon as nothing that depends on it stands in the way."""
        others = (*self.dependents[name], *self.soft_dependents[name])
        if all(self.must_be_over(other) for other in others):
            self.fail(f"{name} didn't stop at {self.now} though nothing depends on it any more")

    def must_be_over(self, name: str) -> bool:
        """Whether others have to take a module for offline by now; see `is_over`."""
        module = self.seen[name]
        if module.status <= OFFLINE:
            return True
        vague = self.has_crashed(name) or name in self.extended or not module.fell_at_shutdown
        return not vague and (self.is_overdue(module) or self.no_time_since(module.since))

    def check_hurries(self, name: str, module: Seen) -> None:
        """After a control exception nothing gets any time to stop."""
        if not all(self.is_over(other) for other in self.dependents[name]):
            return
        for role, text in module.open.values():
            if role in HURRIED and not self.is_slow(text):
                self.fail(f"{text} of {name} goes on after {self.now}, and there is no time")

    def check_cancels(self, name: str, module: Seen) -> None:
        """What has no grace is cancelled when the module stops and its hooks had their time."""
        others = (*self.dependents[name], *self.soft_dependents[name])
        if not all(self.must_be_over(other) for other in others):
            return
        if module.turn is None:
            module.turn = self.now
        # What fell with another leaves ONLINE at once, and has all its time from its turn on.
        fell = any(self.has_crashed(lower) for lower in self.hard[name])
        since = module.turn if fell else module.since
        half = self.stop_timeout(module) / 2
        if self.events.has_hooks(name) and self.now < since + half + EPSILON:
            return
        for role, text in module.open.values():
            # One of the module's own workers that has a grace may run work in its own task.
            at_home = self.callers.get(function_of(text)) == name
            if role in GRACELESS and not at_home and not self.is_slow(text):
                self.fail(f"{text} of {name} goes on at {self.now}, and it was to be cancelled")

    def is_slow(self, text: str) -> bool:
        """Whether an execution may go on for a while after it was cancelled."""
        name, _, count = text.partition("@")
        acts = self.run.functions[name].acts
        act = acts[min(int(count.partition(" ")[0]), len(acts) - 1)]
        return act.stubborn > 0 or act.call is not None

    def check_starts_in_time(self) -> None:
        """A module starts as soon as what it needs is online, when all are prepared."""
        plans = [self.seen[plan.name] for plan in self.plan.modules]
        if self.shutdown_at is not None or any(module.status <= PREPARING for module in plans):
            return
        if any(module.status is PREPARING for module in self.seen.values()):
            return  # one that was added in an earlier round
        for module in plans:
            needs = (*module.plan.depends_on, *module.plan.wants)
            ready = all(self.seen[other].status is ONLINE for other in needs)
            if module.status is OFFLINE and ready and not self.plan.command:
                self.fail(f"{module.plan.name} didn't start at {self.now} though it could")

    # ------------------------------------------------------------ functions

    def on_begin(self, record: Record) -> None:
        if self.left:
            self.fail("something began after the block")
        if not record.module:
            return
        module = self.seen[record.module]
        name = function_of(record.text)
        if record.what in WORK:
            self.check_work(module, record.what, name)
        elif record.what in ("enter", "start"):
            self.check_starting(module, record.what, name)
        elif record.what == "stop":
            self.check_stop(module, name)
        elif record.what == "exit":
            self.check_exit(module, name)
        elif record.what == "span":
            module.spans.append(record.text)
        elif record.what == "prep":
            self.check_prep(module)
        module.open[record.token] = (record.what, record.text)
        for rules in self.rules:
            rules.on_begin(record)

    def check_prep(self, module: Seen) -> None:
        if module.status is not PREPARING:
            self.fail(f"prep of {module.plan.name} begins while it is {module.status.name}")
        if module.open:
            self.fail(f"prep of {module.plan.name} begins while this goes on: {module.open}")

    def check_work(self, module: Seen, role: str, function: str) -> None:
        """Work begins only in a run, and before its stop functions."""
        name = module.plan.name
        if function in self.refused:
            self.fail(f"{name}, which is stopping, took {function} from somebody else")
        if module.status < STOPPING:
            self.fail(f"work of {name} begins while it is {module.status.name}")
        if module.leaving:
            self.fail(f"work of {name} begins after its stop functions")
        if function in module.declared and len(module.started) < len(module.plan.start):
            self.fail(f"declared work of {name} begins before its start functions returned")
        if role == "service" and function in map(function_of, module.busy(("service",))):
            self.fail(f"two executions of the service worker {function} of {name} overlap")

    def check_starting(self, module: Seen, role: str, function: str) -> None:
        """Lifespans, then start functions, each in order, in a module that is starting."""
        name, plan = module.plan.name, module.plan
        if module.status is not STARTING:
            self.fail(f"{function} of {name} begins while it is {module.status.name}")
        for lower in self.hard[name]:
            if self.seen[lower].status is not ONLINE:
                self.fail(f"{function} of {name} begins while {lower} is not online")
        if role == "enter":
            expected = plan.lifespans[len(module.spans)].enter.name
        else:
            expected = plan.start[len(module.started)].name
            if len(module.spans) != len(plan.lifespans):
                self.fail(f"{function} of {name} begins before its lifespans were entered")
        if function != expected:
            self.fail(f"{function} of {name} begins where {expected} should")

    def check_stop(self, module: Seen, function: str) -> None:
        """Stop functions begin when all work has ended and all dependents are offline."""
        name = module.plan.name
        self.check_leave(module, function, (*WORK, "start", "enter", "stop", "exit"))
        if function in module.stopped:
            self.fail(f"the stop function {function} of {name} begins twice in one run")
        module.stopped.append(function)

    def check_exit(self, module: Seen, function: str) -> None:
        """Lifespans are left in reverse order, after the stop functions."""
        name = module.plan.name
        self.check_leave(module, function, (*WORK, "start", "enter", "stop", "exit"))
        by_function = {span.exit.name: span.name for span in module.plan.lifespans}
        if module.spans[-1:] != [by_function[function]]:
            self.fail(f"{function} of {name} begins, and these lifespans are open: {module.spans}")

    def check_leave(self, module: Seen, function: str, roles: tuple[str, ...]) -> None:
        name = module.plan.name
        module.leaving = True
        if module.status is not STOPPING:
            self.fail(f"{function} of {name} begins while it is {module.status.name}")
        busy = module.busy(roles)
        if busy:
            self.fail(f"{function} of {name} begins while this goes on: {busy}")
        running = [other for other in self.dependents[name] if not self.is_over(other)]
        if running:
            self.fail(f"{function} of {name} begins while {running} depend on it and run")
        if not module.fell_at_shutdown or module.troubled:
            return
        wanting = [other for other in self.soft_dependents[name] if not self.is_over(other)]
        if wanting:
            self.fail(f"{function} of {name} begins at shutdown while {wanting} want it and run")

    def on_end(self, record: Record) -> None:
        if self.left:
            self.fail("something ended after the block")
        if not record.module:
            return
        module = self.seen[record.module]
        role, text = module.open.pop(record.token)
        function = function_of(text)
        raised = record.text.startswith("raised")
        if role == "start" and record.text == "returned":
            module.started.append(function)
        if role == "span":
            module.spans.remove(text)
        if record.text == "cancelled":
            self.check_cancelled(module, role, function)
            if module.status is ONLINE:
                self.cancelled_by_caller.add(function)
        for rules in self.rules:
            rules.on_end(record, text)
        if raised and (role in CRASHING or self.asks_for_more(record)):
            module.troubled = self.trouble = True
            if role in ("task", "child") and module.status is ONLINE and not self.control:
                module.must_leave = module.must_leave or self.now

    def asks_for_more(self, record: Record) -> bool:
        """Whether what was raised ends more than what raised it."""
        if record.text.startswith("raised Retry"):
            return False
        serials = re.findall(r"[0-9]+", record.text)
        found = [self.made[int(serial)].label for serial in serials]
        return not found or any(label in ("request", "control") for label in found)

    def check_cancelled(self, module: Seen, role: str, function: str) -> None:
        """The framework cancels work for a reason, and not before its grace is over."""
        declared = function in module.declared
        name = module.plan.name
        if role == "job":
            declared = function not in self.tasks.cancelled
        if not declared and role not in ("task", "hook", "micro"):
            return
        if module.status is ONLINE and not module.troubled and not self.control:
            self.fail(f"{function} of {name} was cancelled while {name} is online")
        graces = {worker.func.name: worker.grace for worker in module.plan.workers}
        graces |= {service.func.name: service.grace for service in module.plan.services}
        grace = graces.get(function, 0.0)
        if module.troubled or self.may_hurry or not module.was_online:
            return
        if self.now < module.since + grace - EPSILON:
            self.fail(f"{function} of {name} was cancelled before its grace of {grace} was over")

    # ------------------------------------------------------------ calls

    def on_call(self, record: Record) -> None:
        for rules in self.rules:
            rules.on_call(record)
        if record.what in CHANGES:
            self.changed = True
            self.open_changes.add(record.token)
        asked, source = self.run.calls[record.token]
        if isinstance(asked, RunWorker | CallGuarded | RunMicrotask):
            self.callers[asked.func.name] = source[1]
        status = self.seen[record.module].status if record.module else DEAD
        runs = self.seen[record.module].runs if record.module else 0
        self.calls[record.token] = (record, status, runs)
        if status is STOPPING:
            self.expect_refusal(record)
        if record.what == "RemoveIt":
            self.removing.add(record.module)
        if record.what == "AwaitShutdown" and source[0] == "body" and self.shutdown_at is None:
            self.body_shuts_down = True
        if record.what == "Extend":
            self.extended.add(record.module)
        if record.what == "AwaitOnline":
            self.waiting[record.token] = (record.module, self.now if status is ONLINE else None)
        if record.what == "CancelNursery" and status is ONLINE:
            self.seen[record.module].troubled = self.trouble = True
            self.seen[record.module].must_leave = self.now

    def expect_refusal(self, record: Record) -> None:
        """A module that stops takes no work from others."""
        asked, source = self.run.calls[record.token]
        # What falls with something else waits for its turn to stop, and works until then.
        if source[1] == record.module or self.has_crashed(record.module):
            return
        if isinstance(asked, StartWorker | RunWorker | CallGuarded | RunMicrotask):
            self.refused.add(asked.func.name)

    def on_return(self, record: Record) -> None:
        for rules in self.rules:
            rules.on_return(record)
        call, status, runs = self.calls.pop(record.token)
        # One whose caller went away goes on, for nobody knows how long.
        if record.text not in ("gave up", "cancelled"):
            self.open_changes.discard(record.token)
        if record.what == "RemoveIt" and record.text.startswith("raised GraphError"):
            self.removing.discard(call.module)
        if record.what == "AwaitOnline":
            self.check_waiter(record)
        if record.text == "ran":
            self.check_ran(record)
        if record.what in ("StartWorker", "StartTask", "StartService"):
            self.check_acceptance(call, status, record.text)
        if record.what == "RunWorker" and record.text.startswith("raised ModuleOffline"):
            module = self.seen[call.module]
            if status is ONLINE and module.status is ONLINE and module.runs == runs:
                self.fail(f"run_worker of {call.module}, online all the time, was refused")
        if record.what == "AwaitShutdown" and record.text == "stopped":
            running = [name for name in self.seen if self.seen[name].status > OFFLINE]
            if running:
                self.fail(f"shutdown() returned while {running} run")

    def check_ran(self, record: Record) -> None:
        """What ran to its end in its caller's task was not cancelled with that."""
        asked, _ = self.run.calls[record.token]
        assert isinstance(asked, RunWorker | CallGuarded | RunMicrotask)
        if asked.func.name in self.cancelled_by_caller:
            self.fail(f"the Cancelled of the caller of {asked.func.name} was swallowed")

    def check_waiter(self, record: Record) -> None:
        awaited, since = self.waiting.pop(record.token)
        if record.text == "online" and since is None:
            self.fail(f"wait_online() returned though {awaited} was not online")
        if record.text == "gave up" and since is not None and since < self.now - EPSILON:
            self.fail(f"wait_online() missed that {awaited} was online at {since}")

    def check_acceptance(self, call: Record, status: ModuleStatus, answer: str) -> None:
        name = call.module
        if answer.startswith("raised ModuleOffline") and status is ONLINE:
            self.fail(f"{call.what} was refused by {name}, which was online")
        if answer == "accepted" and status <= OFFLINE:
            self.fail(f"{call.what} was accepted by {name}, which was {status.name}")

    # ------------------------------------------------------------ the rest

    def on_made(self, record: Record) -> None:
        self.trouble = True
        made = next(made for made in self.run.made.values() if f"#{made.serial} " in record.text)
        if record.what == "control":
            # A nursery of the service's own may hold one back until all else in it has ended.
            held = made.role in ("child", "exit", "run", "guarded", "task", "microrun", "slot")
            # The first one begins the shutdown; one that arrives during it leaves no time for it.
            self.may_hurry |= held or self.control or self.shutdown_at is not None
            self.control = True
            self.body_interrupted |= made.role == "body"
            if self.shutdown_at is not None and self.control_at is None and not held:
                self.control_at = self.now
        if isinstance(made.exc, RestartModule) and record.module:
            self.seen[record.module].troubled = True

    def on_shutdown(self, record: Record) -> None:
        if self.shutdown_at is None:
            self.shutdown_at, self.shutdown_with = self.now, self.number
            # It has yet to leave the body, whose nursery waits for what else is in there.
            self.may_hurry |= self.body_interrupted and self.body_open

    def on_block(self, record: Record) -> None:
        if record.what == "body":
            self.body_open = self.body_seen = True
            self.check_body(record)
        elif record.what == "body over":
            self.body_open = False
        elif record.what == "left":
            self.check_left()

    def check_body(self, record: Record) -> None:
        """A body that can't run begins while no module is online."""
        online = [name for name in self.seen if self.seen[name].status is ONLINE]
        if not record.text and online:
            self.fail(f"the body begins with the app not started, yet {online} are online")

    def check_left(self) -> None:
        """Nothing that the app started is alive after its block."""
        self.left = True
        for name, module in self.seen.items():
            if module.status not in (DEAD, OFFLINE):
                self.fail(f"{name} is {module.status.name} after the block")
            if module.open:
                self.fail(f"this of {name} goes on after the block: {list(module.open.values())}")
        before, after = self.run.tasks
        if before != after:
            self.fail(f"{before} tasks lived before the block and {after} after it")

    def on_settled(self, record: Record) -> None:
        """With nothing in its way, what is wanted is online, and nothing else is."""
        if self.trouble or self.open_changes or self.shutdown_at is not None:
            return
        wanted = set(record.text.split())
        for name, module in self.seen.items():
            if name in wanted and module.status is not ONLINE:
                self.fail(f"all is settled, and {name}, wanted, is {module.status.name}")
            if name not in wanted and not self.is_over(name):
                self.fail(f"all is settled, and {name}, not wanted, is {module.status.name}")


# ---------------------------------------------------------------- exceptions


class ExceptionChecker:
    """Follows each exception that user code raised to where it ended up."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.errors: list[str] = []
        self.reported: Counter[int] = Counter()
        for report in run.reports:
            # What a ModuleCrashed was caused by has been reported when it happened.
            if not isinstance(report.exception, ModuleCrashed):
                self.reported.update(set(run.serials(report.exception)))
        self.left = set(run.serials(run.left))

    def fail(self, text: str) -> None:
        self.errors.append(text)

    def check(self) -> list[str]:
        for made in self.run.made.values():
            self.check_made(made)
        for report in self.run.reports:
            self.check_report(report.exception)
        self.check_modules()
        for exc in (self.run.left, *self.run.foreign):
            self.check_internal(exc)
        return self.errors

    def check_made(self, made: Made) -> None:
        if made.label == "clean-exit":
            return
        if made.label == "control":
            self.check_control(made)
        elif made.label != "stray" or not self.may_be_genuine(made):
            self.check_failure(made)
        elif self.reported[made.serial] > 1:
            self.fail(f"the stray #{made.serial} of {made.role} was reported twice")

    def may_be_genuine(self, made: Made) -> bool:
        """Whether a stray Cancelled can't be told from one that somebody asked for.

        A nursery that holds the function takes it for its own: it cancels itself when a child of
        it fails.
        """
        if made.cancelled or made.role in ("task", "child", "run", "body", "microrun", "slot"):
            return True
        lifespans = next(
            (plan.lifespans for plan in self.run.plan.all_modules if plan.name == made.module), ()
        )
        return made.role == "exit" and any(span.child is not None for span in lifespans)

    def check_failure(self, made: Made) -> None:
        """It is reported once, or raised to one caller, or leaves the block; never nowhere."""
        number = made.serial
        reported, caught = self.reported[number], self.run.caught[number]
        left = number in self.left
        who = f"#{number} of {made.role} of {made.module or 'the app'}"
        if reported > 1:
            self.fail(f"{who} was reported {reported} times")
        if caught > 1:
            self.fail(f"{who} was raised to {caught} callers")
        if reported and caught:
            self.fail(f"{who} was reported, and raised to its caller too")
        if not (reported or caught or left or number in self.run.managed):
            self.fail(f"{who} is lost: neither reported nor raised to anybody")
        if not (reported or caught or left) and made.role != "prep":
            self.fail(f"{who} was raised to who managed the app, and not reported")
        if left and reported and not self.may_be_both(made):
            self.fail(f"{who} was reported, and leaves the block too")

    def may_be_both(self, made: Made) -> bool:
        return made.role in WORK or isinstance(self.run.left, ModuleCrashed | ShutdownError)

    def check_control(self, made: Made) -> None:
        """It reaches who runs the block, and isn't reported."""
        where = f"#{made.serial} of {made.role} of {made.module or 'the app'}"
        found = sum(1 for leaf in leaves(self.run.left) if leaf is made.exc)
        if found != 1:
            self.fail(f"the control exception {where} leaves the block {found} times")
        if self.reported[made.serial]:
            self.fail(f"the control exception {where} was reported")

    def check_report(self, exc: BaseException | None) -> None:
        self.check_internal(exc)
        for part in parts(exc):
            if isinstance(part, trio.Cancelled) and id(part) not in self.run.made:
                self.fail(f"a genuine Cancelled was reported: {exc!r}")

    def check_internal(self, exc: BaseException | None) -> None:
        for part in parts(exc):
            if isinstance(part, INTERNAL) and id(part) not in self.run.made:
                self.fail(f"the package itself failed: {part!r}")

    def check_modules(self) -> None:
        """A report names the module in which it happened, and says how bad it is."""
        for report in self.run.reports:
            for made in self.made_in(report.exception):
                if made.module != report.module and made.serial not in self.run.passed_on:
                    self.fail(f"#{made.serial} of {made.module} was reported for {report.module}")
            direct = self.run.made.get(id(report.exception))
            if direct is None or not report.task_type.endswith("worker"):
                continue
            expected = "info" if isinstance(direct.exc, RestartModule) else None
            if direct.label in ("failure", "stray"):
                expected = "panic"
            if expected is not None and report.severity != expected:
                self.fail(f"#{direct.serial} was reported as {report.severity!r}")

    def made_in(self, exc: BaseException | None) -> Iterator[Made]:
        for part in parts(exc):
            if id(part) in self.run.made:
                yield self.run.made[id(part)]


def check_left(run: Run) -> Iterator[str]:
    """What leaves the block is the first of what may."""
    left = run.left
    controls = {id(made.exc) for made in run.made.values() if made.label == "control"}
    if controls:
        found = {id(leaf) for leaf in leaves(left)}
        if found != controls:
            yield f"{left!r} leaves the block, and not just the control exceptions"
        if len(controls) == 1 and isinstance(left, BaseExceptionGroup):
            yield f"the only control exception leaves in a group: {left!r}"
        return
    yield from check_left_without_control(run)


def check_left_without_control(run: Run) -> Iterator[str]:
    left, body = run.left, run.body_failure
    began = next((i for i, record in enumerate(run.records) if record.kind == "shutdown"), None)
    body_ran = any(record.kind == "block" and record.what == "body" for record in run.records)
    if isinstance(left, StartError) and body_ran:
        yield "a StartError leaves the block though its body was entered"
    if body is not None:
        first = began is None or began >= run.body_failed_at - 1
        allowed = same_failure(left, body) or (not first and isinstance(left, ModuleCrashed))
        if not allowed:
            yield f"the body raised {body!r}, and {left!r} leaves the block"
        return
    known = (StartError, ModuleCrashed, ShutdownError)
    from_command = [made for made in run.made.values() if made.role == "command"]
    quiet = all(isinstance(leaf, trio.Cancelled) for leaf in leaves(left))
    if isinstance(left, GraphError) and not body_ran and removes_modules(run.plan):
        return  # a module that others want was removed in an earlier round
    if not quiet and not isinstance(left, known) and not from_command:
        yield f"{left!r} leaves the block, and nothing of that kind may"
    if quiet:
        yield from check_quiet_end(run, began, body_ran)


def removes_modules(plan: ServicePlan) -> bool:
    return any(isinstance(call, RemoveIt) for _, call in (*plan.body_calls, *plan.outside_calls))


def check_quiet_end(run: Run, began: int | None, body_ran: bool) -> Iterator[str]:
    """Only what may end a block quietly does."""
    reasons = [record.text for record in run.records if record.kind == "shutdown"]
    clean = any(made.label == "clean-exit" for made in run.made.values())
    cancelled = any(record.what == "CancelBlock" for record in run.records)
    reason = body_ran or began is not None or clean or cancelled or run.plan.command is not None
    if not reason:
        yield "the block ends quietly though its body never ran and nothing ended the app"
    strays = [leaf for leaf in leaves(run.left) if id(leaf) in run.made]
    if run.left is not None and not cancelled and not strays:
        yield "a Cancelled leaves the block though nobody cancelled it"
    grouped = any(record.what == "body over" and "Group" in record.text for record in run.records)
    if isinstance(run.left, BaseExceptionGroup) and not grouped:
        yield "the Cancelled that leaves the block is wrapped in a group"
    if run.left is None and cancelled and reasons and "block was cancelled" in reasons[0]:
        yield "the block was cancelled, and no Cancelled leaves it"
    yield from check_stop_errors(run, began)


def check_stop_errors(run: Run, began: int | None) -> Iterator[str]:
    """What fails while everything stops leaves the block if nothing else does."""
    stopping: dict[str, int] = {}
    began = began_to_stop(run, began)
    for index, record in enumerate(run.records):
        for name, _, after in record.moves:
            if after is STOPPING:
                stopping[name] = index
        if record.kind != "made" or record.what not in ("failure", "stray"):
            continue
        made = next(made for made in run.made.values() if f"#{made.serial} " in record.text)
        in_order = began is not None and stopping.get(record.module, -1) > began
        # Trouble in the same run may have made it a crash, which is reported instead.
        quiet = not any(
            other.module == made.module for other in run.made.values() if other is not made
        )
        if made.role in ("stop", "exit") and in_order and quiet and made.label == "failure":
            yield f"#{made.serial} of {made.role} of {made.module} should leave as ShutdownError"


def began_to_stop(run: Run, shutdown: int | None) -> int | None:
    """From where in the trace on a module that stops does so because the app goes down.

    While the body has time to end, what was asked for before goes on, a restart for example, and
    what crashes stops for that.
    """
    if shutdown is None:
        return None
    body_open = False
    latest = run.records[shutdown].time + run.plan.stop_timeout
    for index, record in enumerate(run.records):
        if record.kind == "block" and record.what in ("body", "body over"):
            body_open = record.what == "body"
        if index >= shutdown and (not body_open or record.time >= latest - EPSILON):
            return index
    return shutdown


def same_failure(left: BaseException | None, body: BaseException) -> bool:
    """Whether what left is what the body raised, Cancelled aside."""
    if left is body:
        return True
    mine = {id(leaf) for leaf in leaves(left)}
    theirs = {id(leaf) for leaf in leaves(body) if not isinstance(leaf, trio.Cancelled)}
    return mine == theirs


# ---------------------------------------------------------------- changes


def check_changes(run: Run) -> Iterator[str]:
    """``app.changes()`` tells every step of every module, and no other."""
    for number, change in enumerate(run.changes):
        if change.seq != run.changes[0].seq + number:
            yield f"change {change.seq} follows {run.changes[number - 1].seq}"
            return
    last: dict[str, ModuleStatus] = {}
    told: dict[str, list[ModuleStatus]] = defaultdict(list)
    hard = run.plan.hard_dependencies()
    for change in run.changes:
        name, before, after = change.module, change.before, change.after
        if before is not last.get(name, before):
            yield f"a change of {name} begins at {before.name}, the last ended elsewhere"
        last[name] = after
        if before is after:
            continue
        told[name].append(after)
        if (before, after) not in LEGAL:
            yield f"{name} went from {before.name} to {after.name} at once"
        if after in (STARTING, ONLINE):
            missing = [other for other in hard[name] if last.get(other) is not ONLINE]
            if missing:
                yield f"{name} became {after.name} before {missing}"
    yield from check_told(run, told)


def check_told(run: Run, told: dict[str, list[ModuleStatus]]) -> Iterator[str]:
    seen: dict[str, list[ModuleStatus]] = defaultdict(list)
    for record in run.records:
        for name, _, after in record.moves:
            seen[name].append(after)
    for name, statuses in seen.items():
        rest = iter(told[name])
        if not all(any(status is other for other in rest) for status in statuses):
            yield f"changes() told {told[name]} of {name}, which was seen as {statuses}"
    for name, statuses in told.items():
        if statuses and seen[name][-1:] != statuses[-1:]:
            yield f"changes() ends with {statuses[-1].name} of {name}, seen last: {seen[name][-1:]}"


# ---------------------------------------------------------------- the face of this file


def check(run: Run) -> list[str]:
    """Return all that is against the rules in *run*, as clear sentences."""
    if run.hang:
        return [f"the service hangs; its tasks:\n{run.hang}"]
    return [
        *TraceChecker(run).check(),
        *ExceptionChecker(run).check(),
        *check_left(run),
        *check_changes(run),
    ]


def trace_of(run: Run) -> list[str]:
    """Return everything that two runs of one seed have in common, as text."""
    lines = [str(record) for record in run.records]
    for report in run.reports:
        serials = sorted(run.serials(report.exception))
        what = f"{report.task_type} {report.severity} {type(report.exception).__name__} {serials}"
        lines.append(f"report {report.time} {report.module} {report.task_name} {what}")
    lines += [f"change {c.seq} {c.time} {c.module} {c.before} {c.after}" for c in run.changes]
    return lines
