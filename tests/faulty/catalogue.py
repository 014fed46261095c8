"""The faults: for each a place in the package, what stands there, and what is put in its place.

The text must be there exactly once, so that a fault whose place has changed can't be missed.
"""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["FAULTS", "Fault"]


@attrs.frozen
class Fault:
    """One fault.

    Attributes:
        name: what goes wrong, in few words.
        room: the file, without its ending.
        before: what stands there, exactly once.
        after: what is put in its place.
    """

    name: str
    room: str
    before: str
    after: str

    def put_into(self, package: Path) -> None:
        """Put it into a copy of the package.

        Raises:
            ValueError: if its place isn't there, or is there more than once.
        """
        path = package / f"{self.room}.py"
        text = path.read_text(encoding="utf-8")
        count = text.count(self.before)
        if count != 1:
            raise ValueError(f"fault {self.name!r}: found {count} times in {self.room}.py")
        path.write_text(text.replace(self.before, self.after), encoding="utf-8")


FAULTS = (
    # ------------------------------------------------------------ order
    Fault(
        "a module stops before its dependents",
        "_state",
        '(ModuleStatus.ONLINE, False): (Action.STOP, "dependents offline")',
        '(ModuleStatus.ONLINE, False): (Action.STOP, "")',
    ),
    Fault(
        "a crashed module stops before its dependents",
        "_state",
        '(ModuleStatus.STOPPING, False): (Action.STOP, "dependents offline")',
        '(ModuleStatus.STOPPING, False): (Action.STOP, "")',
    ),
    Fault(
        "a module starts before its dependencies",
        "_state",
        '(ModuleStatus.OFFLINE, True): (Action.START, "dependencies online")',
        '(ModuleStatus.OFFLINE, True): (Action.START, "")',
    ),
    Fault(
        "dependents stay online in a crash",
        "_lifecycle",
        "_dependents_first(unit, lambda u: u.status in (STARTING, ONLINE))",
        "_dependents_first(unit, lambda u: False)",
    ),
    Fault(
        "the counter of dependents isn't lowered by a leftover",
        "_lifecycle",
        "down = unit.status <= OFFLINE or unit.leftover is not None",
        "down = unit.status <= OFFLINE",
    ),
    Fault(
        "a soft dependent isn't waited for",
        "_lifecycle",
        "self._count_dependents(unit.wants, 1 if sinking else -1)",
        "self._count_dependents([], 1 if sinking else -1)",
    ),
    Fault(
        "modules stop while the body still runs",
        "_block",
        "            self.timers.after(self._settings.stop_timeout, self._stop_modules)\n",
        "            self._stop_modules()\n",
    ),
    Fault(
        "stop functions run in the order of declaration",
        "_life",
        "for fn in reversed(self._module.stop_functions):",
        "for fn in self._module.stop_functions:",
    ),
    Fault(
        "no stop functions after a crash",
        "_life",
        "        if self._completed:\n            await self._run_stop_functions()",
        "        if self._completed and not self._crashed:\n"
        "            await self._run_stop_functions()",
    ),
    Fault(
        "lifespans aren't left after a failed start",
        "_life",
        "            await self._leave(entered)\n",
        "            if self._completed:\n                await self._leave(entered)\n",
    ),
    Fault(
        "the lifespans are left first in, first out",
        "_life",
        "resource = entered.pop()",
        "resource = entered.pop(0)",
    ),
    Fault(
        "stop functions don't wait for work in other tasks",
        "_workers",
        "            while self.guests:\n",
        "            while False:\n",
    ),
    Fault(
        "a stop that runs out of time is waited for",
        "_lifecycle",
        "        unit.stop_timer = self._timers.after(seconds, lambda: self._overdue(unit))\n",
        "        unit.stop_timer = self._timers.after(2 * seconds, lambda: self._overdue(unit))\n",
    ),
    # ------------------------------------------------------------ cancellation and exceptions
    Fault(
        "a guarded function swallows the caller's Cancelled",
        "_workers",
        "        if caught.passing is not None:\n            raise caught.passing\n",
        "        if caught.passing is not None and caught.fatal:\n"
        "            raise caught.passing\n",
    ),
    Fault(
        "a stray Cancelled is taken for a genuine one",
        "_reporting",
        "        return cancelled or _was_under_way(exc)\n",
        "        return True\n",
    ),
    Fault(
        "a genuine Cancelled is taken for a failure",
        "_reporting",
        "        return cancelled or _was_under_way(exc)\n",
        "        return False\n",
    ),
    Fault(
        "a KeyboardInterrupt in a group is lost",
        "_reporting",
        "return Caught(passing, tuple(_fatal_leaves(passing)), failure)",
        "return Caught(passing, (), failure)",
    ),
    Fault(
        "the failures beside a KeyboardInterrupt are lost",
        "_reporting",
        "return Caught(passing, tuple(_fatal_leaves(passing)), failure)",
        "return Caught(passing, tuple(_fatal_leaves(passing)), None)",
    ),
    Fault(
        "the outer Cancelled doesn't leave the block",
        "_verdict",
        "        if self.cancelled is not None:\n            raise self.cancelled\n"
        "        await trio.lowlevel.checkpoint_if_cancelled()\n",
        "        if self.cancelled is not None:\n            return\n",
    ),
    Fault(
        "the second failure of a stop is lost",
        "_life",
        "extras.failures = (*extras.failures, failure)",
        "extras.failures = extras.failures or (failure,)",
    ),
    Fault(
        "a crash that was reported is reported again",
        "_life",
        "extras.cause, extras.reported = exc, True",
        "extras.cause, extras.reported = exc, False",
    ),
    Fault(
        "what loses against another error is lost",
        "_verdict",
        "            for error in self._parts(loser):\n                self._report(error)\n",
        "            for error in self._parts(loser):\n",
    ),
    # ------------------------------------------------------------ workers
    Fault(
        "a worker that fails isn't counted as ended",
        "_workers",
        "        try:\n            self._workers.failed(exc)\n        finally:\n"
        "            self._workers.ended += 1\n",
        "        self._workers.failed(exc)\n",
    ),
    Fault(
        "work from outside is taken while the module stops",
        "_workers",
        "if nursery is None or not (self.open or self._is_own_late_work(nursery)):",
        "if nursery is None:",
    ),
    Fault(
        "workers have no grace",
        "_life",
        "with_grace = not (self._crashed or self._extras.expired)",
        "with_grace = False",
    ),
    Fault(
        "who works for a module in another task isn't cancelled",
        "_workers",
        "                guest.scope.cancel(reason=reason)\n        for unborn",
        "                pass\n        for unborn",
    ),
    Fault(
        "a waiter for a status is forgotten",
        "_part",
        "            if event is not None:\n                event.set()\n",
        "            if event is not None and self.unit.status is not ModuleStatus.ONLINE:\n"
        "                event.set()\n",
    ),
    # ------------------------------------------------------------ restarts
    Fault(
        "one restart too many",
        "_backoff",
        "return len(restarts) <= limit",
        "return len(restarts) <= limit + 1",
    ),
    Fault(
        "one restart too few",
        "_backoff",
        "return len(restarts) <= limit",
        "return len(restarts) < limit or not limit",
    ),
    Fault(
        "old failures count against the budget for ever",
        "_backoff",
        "while restarts[0] + self.policy.within < now:",
        "while False:",
    ),
    Fault(
        "a backoff isn't reset by a long run",
        "_backoff",
        "if now >= began + backoff.reset_after:",
        "if False:",
    ),
    Fault(
        "one too many is within its first seconds",
        "_services",
        "not self.is_limited or self.settling < self._limit",
        "not self.is_limited or self.settling <= self._limit",
    ),
    Fault(
        "a place in the restart capacity isn't given back",
        "_services",
        "        if turn.is_set():\n            self.leave()\n",
        "        if turn.is_set():\n            pass\n",
    ),
    Fault(
        "RestartNow waits for the backoff",
        "_backoff",
        "if immediate or not backoff.initial:",
        "if not backoff.initial:",
    ),
    # ------------------------------------------------------------ tasks
    Fault(
        "the plain queue goes first",
        "_schedule",
        "        if self._prioritized:\n            item = self._prioritized.popitem",
        "        if self._prioritized and len(self._plain) == self._skipped:\n"
        "            item = self._prioritized.popitem",
    ),
    Fault(
        "the front of the line is its end",
        "_schedule",
        "self._prioritized.move_to_end(item, last=False)",
        "self._prioritized.move_to_end(item, last=True)",
    ),
    Fault(
        "one task too many is executed",
        "_schedule",
        "        if len(places) >= self.limit and not self._overtime_gives_way(now):\n",
        "        if len(places) > self.limit and not self._overtime_gives_way(now):\n",
    ),
    Fault(
        "the longest delay doesn't count",
        "_schedule",
        "item._latest = now + max_delay if max_delay else math.inf",
        "item._latest = math.inf",
    ),
    Fault(
        "tasks don't wait for microtasks",
        "_schedule",
        "if self._room.free <= 0 and not self._was_patient(now):",
        "if False:",
    ),
    Fault(
        "a place isn't given back by a task that is cancelled",
        "_schedule",
        "        if ended is not None:\n",
        "        if ended is not None and ended._due is not None:\n",
    ),
    Fault(
        "who waits for a task isn't told of its module's stop",
        "_taskwork",
        '        task._settle(ModuleOffline(module.name, module.status.name, f"execute task '
        '{task.name!r}"))\n',
        "        del module\n",
    ),
    Fault(
        "a task queued while it runs is lost",
        "_taskwork",
        "        if again is not None:\n            board.rejoin(task, again, now)\n",
        "",
    ),
    Fault(
        "a repetition counts from the beginning",
        "_taskwork",
        "self.board.unschedule(task)  # one interval after the end of this",
        "self.board.plan_next(task, rhythm)",
    ),
    Fault(
        "a stop leaves a task in the line",
        "_taskwork",
        "            self.withdraw(task)\n            if task._extras is not NO_EXTRAS:\n"
        "                task._extras.again",
        "            if task._extras is not NO_EXTRAS:\n                task._extras.again",
    ),
    Fault(
        "a stop forgets what was scheduled last",
        "_taskwork",
        "        if self.board is not None:\n            self.board.sort_in()\n",
        "",
    ),
    Fault(
        "attempts aren't counted",
        "_taskwork",
        "extras.attempt += 1",
        "extras.attempt = 2",
    ),
    Fault(
        "a task that is cancelled goes on",
        "_tasks",
        '            self._runner.cancel(f"task {self.name!r} was cancelled")\n',
        "            pass\n",
    ),
    # ------------------------------------------------------------ microtasks
    Fault(
        "a slot isn't given back by a microtask that is cancelled",
        "_microtasks",
        "        self._ended()\n        if is_cancelled:\n",
        "        if is_cancelled:\n            self._workers.ended += 1\n"
        "        else:\n            self._ended()\n        if is_cancelled:\n",
    ),
    Fault(
        "a slot isn't given back by one that never begins",
        "_microtasks",
        "            self._slots.order.give_up(entry)\n        else:\n"
        "            self._slots.order.leave()\n",
        "            self._slots.order.give_up(entry)\n",
    ),
    Fault(
        "one slot too many",
        "_slots",
        "if self.free > 0 or priority is Priority.HIGH or self.everybody:",
        "if self.free >= 0 or priority is Priority.HIGH or self.everybody:",
    ),
    Fault(
        "LOW goes before MEDIUM",
        "_slots",
        "self._medium if priority is Priority.MEDIUM else self._low",
        "self._low if priority is Priority.MEDIUM else self._medium",
    ),
    Fault(
        "patience has no end",
        "_microtasks",
        "        self.order.lose_patience(self.time())\n",
        "",
    ),
    Fault(
        "microtasks wait while the app shuts down",
        "_block",
        "        self.slots.order.let_everybody_in()\n",
        "",
    ),
    Fault(
        "a microtask in a microtask takes a slot of its own",
        "_microtasks",
        "if this in self._slots.holders:",
        "if False:",
    ),
    # ------------------------------------------------------------ events
    Fault(
        "who waited for room doesn't wake an idle reader",
        "_events",
        "            sender.done(self)\n            self.wake()\n",
        "            sender.done(self)\n",
    ),
    Fault(
        "what is dropped at a stop isn't counted",
        "_events",
        "        self.dropped += lost\n",
        "",
    ),
    Fault(
        "a drop for want of room isn't counted",
        "_events",
        "        self.dropped += 1\n        self.misses_one()\n",
        "        self.misses_one()\n",
    ),
    Fault(
        "what a hook has dropped counts as accepted",
        "_events",
        "        self._beside -= 1\n",
        "        self._beside -= 0\n",
    ),
    Fault(
        "a hook takes more than its buffer holds",
        "_events",
        "        self._room -= 1\n",
        "        self._room -= 0\n",
    ),
    Fault(
        "DROP_OLDEST drops the newest",
        "_events",
        "if self.overflow is Overflow.DROP_NEWEST:",
        "if self.overflow is not Overflow.WAIT:",
    ),
    Fault(
        "who waited for room overtakes those before it",
        "_events",
        "            self.items.append(sender.data)\n",
        "            self.items.appendleft(sender.data)\n",
    ),
    Fault(
        "a full hook is given the same event twice",
        "_events",
        "            if inbox in full:\n                inbox.misses_one()\n            elif",
        "            if inbox in full or",
    ),
    Fault(
        "hooks run until the end of the stop time",
        "_life",
        "await module.drain(began + self.unit.stop_timeout / 2)",
        "await module.drain(began + self.unit.stop_timeout)",
    ),
    Fault(
        "hooks aren't drained",
        "_life",
        "        if module.has_to_drain and not in_a_hurry:\n",
        "        if False:\n",
    ),
    Fault(
        "a hook begins before its event's module is online",
        "_hooks",
        "        if hook.event.source.module.status is not ModuleStatus.ONLINE:\n"
        "            return\n",
        "",
    ),
    Fault(
        "what a hook couldn't handle is lost in a restart",
        "_events",
        "            self.items.extendleft(reversed(taken))\n",
        "",
    ),
    Fault(
        "a hook that fails isn't given the same events again",
        "_reading",
        "            if hook.retry is None or ends_app:\n                break\n",
        "            break\n",
    ),
    Fault(
        "one reader too many",
        "_hooks",
        "for _ in range(hook.concurrency):",
        "for _ in range(hook.concurrency + 1):",
    ),
    Fault(
        "a restart drops what waits for the hooks",
        "_hooks",
        "        if not self.module.is_coming:\n            self.close_all()\n"
        "        for hook in self.hooks:\n            self._say_lost",
        "        self.close_all()\n        for hook in self.hooks:\n            self._say_lost",
    ),
)
