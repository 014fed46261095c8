"""Random histories of events, while modules come and go, against what each hook may see.

More examples by the environment variable SOAK_EXAMPLES.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import deterministic_scheduling, let_run
from trio.testing import MockClock

from trio_modules import App, Backoff, Event, Module, ModuleOffline, Overflow, Restart

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
NAMES = ("a", "b", "c")
BOUND = 1_000.0

OPTIONS = st.fixed_dictionaries(
    {
        "buffer": st.integers(1, 4),
        "overflow": st.sampled_from([Overflow.WAIT, *Overflow]),
        "batch": st.sampled_from([None, 2]),
        "retry": st.sampled_from([None, Backoff(initial=0.5)]),
    }
)
HOOKS = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from([0, 0.1, 3]), OPTIONS
    ),
    min_size=1,
    max_size=5,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("burst"), st.sampled_from(NAMES), st.integers(1, 6)),
        st.tuples(st.just("send"), st.sampled_from(NAMES), st.integers(1, 3)),
        st.tuples(st.just("crowd"), st.sampled_from(NAMES), st.integers(2, 5)),
        st.tuples(st.just("crash"), st.sampled_from(NAMES)),
        st.tuples(st.just("sleep"), st.sampled_from([0.05, 1, 10])),
        st.tuples(st.just("toggle"), st.sampled_from(NAMES)),
        st.tuples(st.just("restart"), st.sampled_from(NAMES)),
        st.tuples(st.just("crash"), st.sampled_from(NAMES)),
        st.tuples(st.just("fail"), st.sampled_from(NAMES)),
    ),
    max_size=25,
)


class Service:
    """Three modules with an event each, and hooks between them that note what they see."""

    def __init__(self, hooks: list[tuple[str, str, float, dict[str, Any]]]) -> None:
        at_once = Restart(backoff=Backoff(initial=0))
        self.modules = {
            name: Module(name, enabled=True, stop_timeout=8, restart=at_once) for name in NAMES
        }
        self.events: dict[str, Event[int]] = {
            name: module.event("tick", int) for name, module in self.modules.items()
        }
        self.app = App(*self.modules.values(), managed=True)
        self.nursery: trio.Nursery
        self.number = 0
        self.triggered: dict[str, list[int]] = {name: [] for name in NAMES}
        self.seen: dict[str, list[int]] = {}
        self.source_of: dict[str, str] = {}
        self.again: set[str] = set()
        self.failing: set[str] = set()
        for index, (source, sink, pause, options) in enumerate(hooks):
            self.add_hook(f"hook-{index}", source, sink, pause, options)

    def add_hook(
        self, name: str, source: str, sink: str, pause: float, options: dict[str, Any]
    ) -> None:
        self.seen[name] = []
        self.source_of[name] = source
        if options["retry"] is not None:
            self.again.add(name)

        async def take(data: Any) -> None:
            self.seen[name] += data if options["batch"] else [data]
            await trio.sleep(pause)
            if sink in self.failing:
                raise ValueError(name)

        declare: Any = self.modules[sink].hook
        declare(self.events[source], take, name=name, **options)

    def next_number(self, name: str) -> int:
        self.number += 1
        self.triggered[name].append(self.number)
        return self.number

    # ------------------------------------------------------------ steps

    async def burst(self, name: str, count: int) -> None:
        for _ in range(count):
            number = self.next_number(name)
            try:
                self.events[name].trigger_nowait(number)
            except (trio.WouldBlock, ModuleOffline):
                self.triggered[name].remove(number)

    async def send(self, name: str, count: int) -> None:
        for _ in range(count):
            number = self.next_number(name)
            try:
                with trio.move_on_after(2):
                    await self.events[name].trigger(number)
            except ModuleOffline:
                self.triggered[name].remove(number)

    async def crowd(self, name: str, count: int) -> None:
        """Several senders, one after the other, each of which may have to wait."""
        for _ in range(count):
            self.nursery.start_soon(self.send, name, 1)
            await let_run()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def toggle(self, name: str) -> None:
        module = self.modules[name]
        module.set_enabled(not module.enabled)
        await self.app.manage()

    async def restart(self, name: str) -> None:
        await self.app.restart(name)

    async def crash(self, name: str) -> None:
        module = self.modules[name]
        if module.online:
            module.nursery.cancel_scope.cancel()
            await let_run()

    async def fail(self, name: str) -> None:
        self.failing ^= {name}

    # ------------------------------------------------------------ what has to hold

    def check(self) -> None:
        for name, event in self.events.items():
            statistics = event.statistics()
            for hook in statistics.hooks:
                accounted = hook.delivered + hook.handling + hook.backlog
                assert accounted == hook.accepted, (name, hook)
                assert min(hook.delivered, hook.handling, hook.backlog, hook.dropped) >= 0
        for hook_name, seen in self.seen.items():
            triggered = self.triggered[self.source_of[hook_name]]
            once = seen if hook_name not in self.again else list(dict.fromkeys(seen))
            assert once == sorted(set(once)), (hook_name, seen)
            assert set(once) <= set(triggered), (hook_name, seen, triggered)


def play(seed: int, hooks: list[Any], steps: list[Any]) -> None:
    service = Service(hooks)

    async def main() -> None:
        with trio.fail_after(BOUND):
            async with service.app, trio.open_nursery() as service.nursery:
                for what, *args in steps:
                    await getattr(service, what)(*args)
                    service.check()
                service.failing.clear()
        service.check()
        for hook in (hook for m in service.app.status().modules.values() for hook in m.hooks):
            assert (hook.backlog, hook.handling) == (0, 0)

    with deterministic_scheduling(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.filterwarnings("default")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**16), hooks=HOOKS, steps=STEPS)
def test_events_follow_their_rules(seed: int, hooks: list[Any], steps: list[Any]) -> None:
    """each hook sees a part of what was triggered, in order and once; all is accounted for."""
    play(seed, hooks, steps)
