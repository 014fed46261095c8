"""Rules for tasks: when which of them is executed, in which order, and how many at a time.

The rules follow what each task was told, and so know which of them wait in the line, since when,
and when the others are due. Between the moment in which it is decided who is next and the first
step of that execution others may run, so an order is judged when time goes by: who was passed over
and still waits then has been.
"""

from __future__ import annotations

import math

import attrs

from services.check_microtasks import MicrotaskRules
from services.plan import AwaitTask, OrderTask, SetLimit, TaskPlan
from services.record import Record
from services.seen import EPSILON, Ground, Rules
from trio_modules import ModuleStatus

__all__ = ["TaskRules"]

OVERTIME = 60.0
ROOM_PATIENCE = 30.0
PLAIN, PRIORITIZED, FRONT = 0, 1, 2
RANKS = {"queue": PLAIN, "queue_prioritized": PRIORITIZED, "start_asap": FRONT}


@attrs.define(eq=False)
class Known:
    """What is known of one task.

    Attributes:
        plan, module: the task.
        vague: whether that is too little to say when it is executed; is_random: always.
        joined: since when it is in the line, None if it isn't; placed: since when at its place.
        delay: how long it is in the line at most; 0 for no limit.
        due: when it joins the line.
        planned: whether that follows from its repetition; retried: whether from a `Retry`.
        later: what it is due for after the retry.
        interval: of its repetition.
        again: how it joins the line when its execution has ended.
        token: of its execution.
        decided: whether it was scheduled since that began.
        moment: the match of its cron line that it waits for, or waited for when its module stopped.
        at_left: whether its declared time is still to come.
        attempt: how often it was tried.
        touched: when its time came the last time.
        unsure: whether nobody can tell any more which of its declared times it missed: its module
            stopped just when one came, or too little was known of it until then.
    """

    plan: TaskPlan
    module: str
    vague: bool = False
    is_random: bool = False
    joined: float | None = None
    placed: float = 0.0
    delay: float = 180.0
    due: float | None = None
    planned: bool = False
    retried: bool = False
    later: float | None = None
    interval: float | None = None
    cron: int | None = None
    again: int | None = None
    token: int | None = None
    decided: bool = False
    cancelled: bool = False
    moment: float | None = None
    at_left: bool = True
    attempt: int = 1
    touched: float = -1.0
    unsure: bool = False

    @property
    def name(self) -> str:
        return self.plan.func.name

    @property
    def limit(self) -> float:
        return math.inf if self.joined is None or not self.delay else self.joined + self.delay


@attrs.define(eq=False)
class Execution:
    """One execution; *has_place* says whether it holds one of the places."""

    task: Known
    text: str
    began: float
    has_place: bool


@attrs.define(eq=False)
class Waiter:
    """Somebody who waits for a task, and what must come of that by now, if anything."""

    task: Known
    result: str = ""


class TaskRules(Rules):
    """What holds for all tasks of an app together."""

    def __init__(self, ground: Ground, microtasks: MicrotaskRules) -> None:
        super().__init__(ground)
        self.microtasks = microtasks
        self.limit = ground.run.limits[0]
        self.lowered_from = (0.0, 0)
        self.entered = ground.run.records[0].time if ground.run.records else 0.0
        self.by_module = {
            module.name: [Known(task, module.name) for task in module.tasks]
            for module in ground.plan.all_modules
        }
        self.known = {task.name: task for tasks in self.by_module.values() for task in tasks}
        for task in self.known.values():
            task.cancelled = task.name in ground.run.cancelled
            task.delay = ground.run.delays.get(task.name, task.delay)
            # What its line had missed in an earlier life is a matter of two wall clocks.
            old = task.plan.cron is not None and ground.run.number > 0
            task.vague = task.is_random = bool(task.plan.jitter) or old
        self.modules = {module.name: module for module in ground.plan.all_modules}
        self.high: list[Known] = []
        self.low: list[Known] = []
        self.executions: dict[int, Execution] = {}
        self.waiters: dict[int, Waiter] = {}
        self.passed: list[tuple[Known, float]] = []
        self.cancelled: set[str] = set()
        self.roomless_since: float | None = None
        self.last_turn = self.entered
        self.time = self.entered

    # ------------------------------------------------------------ the line

    def join(self, task: Known, rank: int) -> None:
        if task.joined is None:
            task.joined = self.time
        elif rank == PLAIN or (rank == PRIORITIZED and task in self.high):
            return
        self.leave_line(task)
        task.placed = self.time
        if rank == PLAIN:
            self.low.append(task)
        elif rank == PRIORITIZED:
            self.high.append(task)
        else:
            self.high.insert(0, task)

    def leave_line(self, task: Known) -> None:
        for queue in (self.high, self.low):
            if task in queue:
                queue.remove(task)

    def withdraw(self, task: Known) -> None:
        self.leave_line(task)
        task.joined = task.due = task.later = task.again = None
        task.retried = task.planned = False

    def ask_again(self, task: Known, rank: int) -> None:
        if task.token is not None:
            task.again = rank if task.again is None else max(rank, task.again)
        else:
            self.join(task, rank)

    # ------------------------------------------------------------ orders

    def on_call(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if isinstance(call, SetLimit) and call.what == "max_concurrent_tasks":
            self.lowered_from = (self.now, self.top_limit)
            self.limit = call.value
        elif isinstance(call, AwaitTask):
            self.waiters[record.token] = Waiter(self.known[call.task])
        elif isinstance(call, OrderTask) and call.order == "cancel":
            self.cancelled.add(call.task)

    def on_return(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if isinstance(call, AwaitTask):
            self.check_waiter(self.waiters.pop(record.token), record.text)
        if not isinstance(call, OrderTask):
            return
        task = self.known[call.task]
        self.check_answer(task, call, record.text)
        if record.text.startswith("accepted"):
            executing = record.text.split()[2] == "1"
            # It is being handed over: who asked came after that, which can't be seen otherwise.
            handed_over = executing is not (task.token is not None)
            task.vague = task.vague or handed_over or self.is_just_due(task)
            self.obey(task, call)
            self.compare(task, record.text)

    def check_answer(self, task: Known, call: OrderTask, answer: str) -> None:
        status = self.ground.seen[call.module].status
        what = f"{call.order} of {task.name} of {call.module}, which is {status.name}"
        is_free = call.order in ("cancel", "max_delay")
        if is_free != answer.startswith("accepted") and (is_free or task.cancelled):
            self.fail(f"{what}, cancelled: {task.cancelled}: {answer}")
        if answer.startswith("raised ModuleOffline") and status is ModuleStatus.ONLINE:
            self.fail(f"{what}: {answer}")
        stopping = status is ModuleStatus.STOPPING and not self.ground.has_crashed(call.module)
        if (
            not is_free
            and answer.startswith("accepted")
            and (status <= ModuleStatus.OFFLINE or stopping)
        ):
            self.fail(f"{what}: {answer}")

    def obey(self, task: Known, call: OrderTask) -> None:
        order, seconds = call.order, call.seconds
        if order == "cancel":
            task.cancelled = True
            self.withdraw(task)
            task.interval = task.cron = None
            if task.token is None:
                self.resolve(task, "raised TaskCancelled")
        elif order == "max_delay":
            task.delay = seconds
        elif self.ground.seen[task.module].status < ModuleStatus.STARTING:
            # It waits for its turn to stop: whether it still works nobody can see, nor whether
            # there is still a time that it may miss.
            task.unsure = task.unsure or task.plan.cron is not None
        elif order in RANKS:
            self.ask_again(task, RANKS[order])
        elif order in ("schedule", "schedule_after"):
            self.schedule(task, self.now + seconds)
        elif order == "unschedule":
            self.unschedule(task)
        elif order == "repeat":
            self.repeat(task, seconds)

    def schedule(self, task: Known, when: float) -> None:
        task.due, task.planned, task.retried, task.later = when, False, False, None
        task.decided = task.token is not None
        if task.plan.at is not None and task.at_left:
            # Whether that time takes the declared one's place, nobody has said; it may come about
            # in a run of the module that ends before it would be scheduled as declared.
            task.vague = task.unsure = True

    def unschedule(self, task: Known) -> None:
        task.due, task.retried, task.later = None, False, None
        task.decided = task.token is not None
        if task.token is None and task.joined is None:
            self.nothing_follows(task)
            task.attempt = 1
            if not task.vague:
                self.resolve(task, "raised TaskCancelled")

    def nothing_follows(self, task: Known) -> None:
        """The task has no time any more, so there is none that it could miss."""
        task.interval = task.cron = task.moment = None

    def repeat(self, task: Known, seconds: float) -> None:
        task.cron = None
        task.interval = seconds or None
        if seconds:
            task.moment = None
        if seconds and task.token is None:
            self.plan_next(task)

    def plan_next(self, task: Known) -> None:
        if task.interval is not None:
            task.due = self.time + task.interval
        elif task.cron is not None:
            passed = self.time - self.entered
            task.moment = task.due = (
                self.entered + (math.floor(passed / task.cron + EPSILON) + 1) * task.cron
            )
        task.planned, task.retried, task.later = True, False, None

    def compare(self, task: Known, answer: str) -> None:
        """What the task says of itself is what follows from what it was told."""
        if self.ground.seen[task.module].status < ModuleStatus.STARTING or task.vague:
            return
        _, queued, _, next_run = answer.split()
        due = math.nan if next_run == "None" else float(next_run)
        if self.now in (task.touched, task.due, due):
            # Its time has just come, and that may be seen or not.
            task.vague = self.differs(task, queued, due)
        elif self.differs(task, queued, due):
            mine = f"{task.joined is not None}, {task.again}, {task.due}"
            self.fail(f"{task.name} says it is {answer}, by what it was told it is {mine}")

    def is_just_due(self, task: Known) -> bool:
        """Whether its time has come at this very moment, which may have been seen, or not."""
        return task.due is not None and task.due <= self.now + EPSILON

    def differs(self, task: Known, queued: str, due: float) -> bool:
        is_queued = task.joined is not None or task.again is not None
        mine = math.nan if task.due is None else task.due
        same = (math.isnan(mine) and math.isnan(due)) or abs(mine - due) < EPSILON
        return queued != str(int(is_queued)) or not same

    # ------------------------------------------------------------ modules

    def on_move(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        if after is ModuleStatus.ONLINE:
            for task in self.by_module[name]:
                self.arm(task)
        elif after is ModuleStatus.STARTING:
            if before is ModuleStatus.STOPPING:  # it was offline within that very step
                for task in self.by_module[name]:
                    self.forget(task, is_offline=True)
            services = self.modules[name].services
            holding = any(service.ready_after is not None for service in services)
            for task in self.by_module[name]:
                # Declared ones are armed some time before such a module is online.
                task.vague = task.vague or (task.plan.declared and holding)
        elif after in (ModuleStatus.STOPPING, ModuleStatus.OFFLINE):
            for task in self.by_module[name]:
                self.forget(task, is_offline=after is ModuleStatus.OFFLINE)

    def forget(self, task: Known, *, is_offline: bool) -> None:
        task.unsure = task.unsure or task.touched == self.now or self.is_just_due(task)
        self.withdraw(task)
        task.interval = task.cron = None
        task.decided = False
        task.attempt = 1
        if is_offline:
            task.unsure = task.unsure or (task.vague and task.plan.cron is not None)
            task.vague = task.is_random
            self.resolve(task, "")

    def arm(self, task: Known) -> None:
        """A declared task is scheduled when its module has started."""
        plan = task.plan
        if not plan.declared or task.cancelled:
            return
        # A start function has asked for it, perhaps for this very moment, or it may have missed
        # a time.
        asked_for = task.token is not None or task.touched == self.now or self.is_just_due(task)
        task.vague = task.vague or asked_for or task.unsure
        if task.vague:
            task.unsure = task.unsure or plan.at is not None  # it may be past, or not
            return
        task.interval, task.cron = plan.every, plan.cron
        if plan.every is not None:
            self.plan_next(task)
        elif plan.cron is not None:
            missed = task.moment is not None and task.moment <= self.now + EPSILON
            self.plan_next(task)
            if missed and plan.misfire == "run-once":
                self.join(task, FRONT)
        elif plan.at is not None and task.at_left:
            if plan.misfire == "skip" and plan.at < self.now:
                task.at_left = False
            else:
                task.due, task.planned = plan.at, False

    # ------------------------------------------------------------ executions

    def on_begin(self, record: Record) -> None:
        if record.what != "job":
            return
        name, _, rest = record.text.partition("@")
        task = self.known[name]
        if task.token is not None:
            self.fail(f"two executions of the task {name} overlap")
        if task.cancelled:
            self.fail(f"the task {name} is executed though it was cancelled")
        early = task.touched == self.now and task.joined is not None and task.joined < self.now
        if early or (task.joined is not None and self.is_just_due(task)):
            task.vague = True  # its time came as it began: before that, or after, for once more
        has_place = False  # as far as anybody knows
        if not task.vague and self.ground.seen[task.module].status >= ModuleStatus.STARTING:
            has_place = self.check_begin(task, int(rest.split()[1]))
        self.roomless_since = None
        if has_place:
            self.last_turn = self.now
        self.leave_line(task)
        task.joined, task.decided = None, False
        task.token = record.token
        if task.planned and task.interval is not None:
            task.due = None
        execution = Execution(task, record.text.partition(" ")[0], self.now, has_place)
        self.executions[record.token] = execution

    def check_begin(self, task: Known, attempt: int) -> bool:
        """Whether it is its turn; whether it takes a place."""
        if attempt != task.attempt:
            self.fail(f"attempt {attempt} of {task.name} follows on {task.attempt - 1} that failed")
        if self.is_just_due(task):
            self.came_due(task)
        if task.joined is None:
            self.fail(f"the task {task.name} begins, and nothing says so")
            return True
        if task.limit <= self.now + EPSILON:
            return False
        taken = sum(each.has_place for each in self.in_time())
        if taken >= self.top_limit:
            self.fail(f"the task {task.name} begins while {taken} of {self.limit} are executed")
        for other in self.ahead_of(task):
            # What happens as a time comes may happen before that or after it.
            tied = other.placed == task.placed and task.placed in (task.touched, other.touched)
            if other.placed < self.now - EPSILON and not tied:
                self.passed.append((other, other.placed))
        self.check_room(task)
        return True

    def check_room(self, task: Known) -> None:
        held = self.microtasks.held_before(self.now)
        # Since then somebody may have waited for room, if not this one.
        waited = self.now >= self.last_turn + ROOM_PATIENCE - EPSILON
        if held >= self.microtasks.top_limit and not waited:
            self.fail(f"the task {task.name} begins while microtasks hold {held} slots")

    def in_time(self) -> list[Execution]:
        """What is executed and not yet overtime."""
        return [
            each for each in self.executions.values() if self.time < each.began + OVERTIME - EPSILON
        ]

    @property
    def top_limit(self) -> int:
        """The limit, or the one that was lowered at this very moment."""
        when, before = self.lowered_from
        return max(self.limit, before) if when == self.now else self.limit

    def ahead_of(self, task: Known) -> list[Known]:
        line = self.high + self.low
        ahead = line[: line.index(task)]
        return [other for other in ahead if not other.vague]

    def on_end(self, record: Record, text: str) -> None:
        if record.what != "job":
            return
        execution = self.executions.pop(record.token)
        task = execution.task
        task.vague = task.vague or task.touched == self.now
        task.token = None
        retry = record.text.startswith("raised Retry") and not task.cancelled
        status = self.ground.seen[task.module].status
        works = status >= ModuleStatus.STARTING
        if retry and works:
            self.try_again(task, execution)
        elif retry and status is ModuleStatus.STOPPING:
            task.attempt = 1  # it may be tried again, until it is its module's turn
        else:
            task.attempt = 1
            self.resolve(task, self.result_of(execution, record.text))
        if task.cancelled or not works:
            return
        again, task.again = task.again, None
        if task.due is None and not task.decided and (task.interval or task.cron):
            self.plan_next(task)
        if again is not None:
            self.join(task, again)
        if task.due is None and task.joined is None:
            self.nothing_follows(task)

    def try_again(self, task: Known, execution: Execution) -> None:
        acts = task.plan.func.acts
        number = int(execution.text.partition("@")[2])
        when = self.now + acts[min(number, len(acts) - 1)].retry_after
        task.attempt += 1
        if task.due is not None and task.due <= when:
            return
        if not task.retried:  # else it takes the place of another one
            task.later = task.due
        task.due, task.retried, task.planned = when, True, False

    def result_of(self, execution: Execution, outcome: str) -> str:
        if outcome == "returned":
            return f"ran {execution.text}"
        if outcome == "cancelled" or outcome.startswith("raised Retry"):
            return "raised"
        return "raised TaskFailed"

    # ------------------------------------------------------------ those who wait

    def resolve(self, task: Known, result: str) -> None:
        """Whoever waits for the task has a result now."""
        for waiter in self.waiters.values():
            if waiter.task is task and not waiter.result:
                waiter.result = result or "raised"

    def check_waiter(self, waiter: Waiter, answer: str) -> None:
        if answer in ("gave up", "cancelled") or answer.startswith("raised RuntimeError"):
            return
        vague = self.ground.seen[waiter.task.module].status is ModuleStatus.STOPPING
        if not (answer.startswith(waiter.result or "nothing") or vague or waiter.task.vague):
            self.fail(f"who waited for {waiter.task.name} got {answer!r}, not {waiter.result!r}")
        if answer.startswith("ran ") and answer != waiter.result:
            self.fail(f"who waited for {waiter.task.name} got {answer!r}, not {waiter.result!r}")

    # ------------------------------------------------------------ when time goes by

    def rest(self) -> None:
        for waiter in self.waiters.values():
            if waiter.result:
                self.fail(f"who waits for {waiter.task.name} isn't told {waiter.result!r}")
                waiter.result = ""
        for other, placed in self.passed:
            if other.joined is not None and other.placed == placed and not other.vague:
                self.fail(f"the task {other.name}, whose turn it was, was passed over")
        self.passed.clear()
        self.come_due()
        self.rest_at()

    def rest_at(self) -> None:
        """Nothing waits in the line that could be executed."""
        line = [task for task in self.high + self.low if not task.vague]
        for task in line:
            if task.limit <= self.time + EPSILON:
                self.fail(f"the task {task.name} is in the line for longer than {task.delay} s")
                task.vague = True
        if not line or len(self.in_time()) >= self.limit:
            self.roomless_since = None
        elif self.microtasks.has_room:
            self.fail(f"the task {line[0].name} isn't executed at {self.time} though it could be")
            line[0].vague = True
        elif self.roomless_since is None:
            self.roomless_since = self.time
        elif self.time >= self.roomless_since + ROOM_PATIENCE - EPSILON:
            self.fail(f"the task {line[0].name} isn't executed though it waited long enough")
            line[0].vague = True

    def advance(self, until: float) -> None:
        """Go through all moments before *until* in which something had to happen."""
        while (moment := self.next_moment()) < until - EPSILON:
            self.time = max(moment, self.time)
            self.come_due()
            self.rest_at()
        self.time = until
        self.come_due()

    def next_moment(self) -> float:
        moments = [task.due for task in self.known.values() if task.due is not None]
        moments += [task.limit for task in self.high + self.low if not task.vague]
        ends = [each.began + OVERTIME for each in self.executions.values()]
        if self.high or self.low:
            moments += [end for end in ends if end > self.time + EPSILON]
        if self.roomless_since is not None:
            moments.append(self.roomless_since + ROOM_PATIENCE)
        return min(moments, default=math.inf)

    def come_due(self) -> None:
        due = [
            task
            for task in self.known.values()
            if task.due is not None and task.due <= self.time + EPSILON
        ]
        due.sort(key=lambda task: (task.retried, -(task.due or 0.0)))
        for task in due:
            self.came_due(task)

    def came_due(self, task: Known) -> None:
        task.touched, task.due = self.time, None
        rank = PLAIN if task.retried else FRONT
        if task.retried:
            task.retried = False
            if task.later is not None:
                task.due, task.later = task.later, None
            elif task.cron is not None:
                self.plan_next(task)
        else:
            task.at_left = False
            if task.cron is not None:
                self.plan_next(task)
        self.ask_again(task, rank)
