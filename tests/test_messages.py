"""What the package says when something is wrong: the form of its messages, and their content."""

from __future__ import annotations

import ast
import builtins
import math
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_modules
from trio_modules import (
    App,
    Backoff,
    GraphError,
    Module,
    ModuleOffline,
    Resource,
    Restart,
    Retry,
    ShutdownError,
    StartError,
    StopError,
    Task,
    TaskCancelled,
    UndeclaredDependency,
    serve,
    supervise,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

PACKAGE = Path(trio_modules.__file__).parent

# --- the form of all messages, read from the source ------------------------------------------


def text_of(node: ast.expr) -> str | None:
    """Return a message's text with each value shown as {}, or None for what isn't a text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or "{}") + (right or "{}")
    return None


def texts_of(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> Iterator[str]:
    """Yield the texts that an expression can be: both arms of a choice, a variable's values."""
    if isinstance(node, ast.IfExp):
        yield from texts_of(node.body, assigned)
        yield from texts_of(node.orelse, assigned)
    elif isinstance(node, ast.Name):
        for value in assigned.get(node.id, ()):
            yield from texts_of(value, {})
    elif (text := text_of(node)) is not None:
        yield text


def assignments(function: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what is assigned to each plain name somewhere in a function."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return found


def said_in(node: ast.AST, function: str) -> list[ast.expr]:
    """Return the message of the exception that is raised or made there, or described."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return list(node.exc.args[:1])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return list(node.args[:1]) if node.func.id.endswith("Error") else []
    if isinstance(node, ast.Return) and node.value and function == "__str__":
        return [node.value]
    return []


def messages_in(source: str) -> set[str]:
    """Return the texts of all exceptions that a source makes or describes in ``__str__``."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        assigned = assignments(function)
        for node in ast.walk(function):
            for expression in said_in(node, function.name):
                found.update(texts_of(expression, assigned))
    return found


def is_a_name(word: str) -> bool:
    """Return whether a word is written with a capital because it is a name in code."""
    in_code = hasattr(trio_modules, word) or hasattr(builtins, word) or not word.isalpha()
    return in_code or word.isupper()


def faults_of_form(message: str) -> list[str]:
    """Return what is wrong with the form of a message."""
    faults = []
    first = re.split(r"[\s.(:']", message, maxsplit=1)[0]
    if first[:1].isupper() and not is_a_name(first):
        faults.append("starts with a capital")
    if message.endswith(".") and not message.endswith("..."):
        faults.append("ends with a full stop")
    if not message.strip():
        faults.append("is empty")
    return faults


def messages_of_the_package() -> list[str]:
    sources = (path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    return sorted(set().union(*map(messages_in, sources)))


def test_there_are_messages() -> None:
    """the collector finds the package's messages: dozens, not a handful."""
    assert len(messages_of_the_package()) > 30


@pytest.mark.parametrize("message", messages_of_the_package())
def test_messages_have_the_common_form(message: str) -> None:
    """a message starts in lower case, unless with a name, and ends without a full stop."""
    assert faults_of_form(message) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    raise ValueError('plain')", {"plain"}),
        ("def f():\n    raise ValueError(f'got {x!r}') from None", {"got {}"}),
        ("def f():\n    raise ValueError('a' 'b' + c)", {"ab{}"}),
        ("def f():\n    text = 'one'\n    raise ValueError(text)", {"one"}),
        ("def f():\n    raise ValueError('one' if x else 'two')", {"one", "two"}),
        ("class E:\n    def __str__(self):\n        return f'{self.x} fell'", {"{} fell"}),
        ("def f():\n    g(ValueError('made'), len('none'))", {"made"}),
        ("def f():\n    raise\ndef g():\n    raise error", set()),
    ],
)
def test_the_collector_sees_every_way_to_say_it(source: str, expected: set[str]) -> None:
    """literals, f-strings, sums, variables, choices and __str__ are all read."""
    assert messages_in(source) == expected


@pytest.mark.parametrize(
    ("message", "faults"),
    [
        ("module 'db' is offline", []),
        ("App 'x' runs already", []),
        ("{} fell", []),
        ("Module is a name, Mistake is none", []),
        ("Something went wrong", ["starts with a capital"]),
        ("it went wrong.", ["ends with a full stop"]),
        ("", ["is empty"]),
    ],
)
def test_the_rule_of_form_itself(message: str, faults: list[str]) -> None:
    """the form's rule accepts what is right and finds what is wrong."""
    assert faults_of_form(message) == faults


# --- what the messages say: each kind of bad input ---------------------------------------------


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


async def needs_one(value: int) -> None:
    await trio.lowlevel.checkpoint()


async def needs_one_task(task: Task) -> None:
    await trio.lowlevel.checkpoint()


def not_async() -> None:
    """Stand for a function that the user forgot to make async."""


def module_with(**options: Any) -> Module:
    """Return a module made with arguments that a type checker may object to."""
    return Module("web", **options)


def says(error: BaseException, *parts: str) -> bool:
    return all(part in str(error) for part in parts) and not faults_of_form(str(error))


def test_two_modules_of_one_name() -> None:
    """a second module of one name is refused, with the name."""
    app = App(Module("db"))
    with pytest.raises(GraphError) as caught:
        app.register(Module("db"))
    assert says(caught.value, "'db'")


def test_one_module_twice_in_the_constructor() -> None:
    """two modules of one name in App(...) are refused, with the name."""
    with pytest.raises(GraphError) as caught:
        App(Module("db"), Module("db"))
    assert says(caught.value, "'db'")


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
async def test_an_unknown_dependency(kind: str) -> None:
    """a dependency that is no module of the app names both ends, before anything is prepared."""
    ran: list[str] = []

    async def prep() -> None:
        ran.append("prep")

    web = module_with(prep=prep, **{kind: ["databse"]})
    with pytest.raises(GraphError) as caught:
        async with App(web):
            raise AssertionError("the body must not run")
    assert says(caught.value, "'web'", "'databse'")
    assert ran == []


async def test_a_circular_dependency() -> None:
    """a cycle is shown as its whole path, before anything is prepared."""
    a, b = Module("a", depends_on=["b"]), Module("b", depends_on=["c"])
    c = Module("c", depends_on=["a"])
    with pytest.raises(GraphError) as caught:
        async with App(a, b, c):
            raise AssertionError("the body must not run")
    assert caught.value.modules in {tuple("abca"), tuple("bcab"), tuple("cabc")}
    assert says(caught.value, " -> ".join(map(repr, caught.value.modules)))


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
def test_a_string_for_a_list_of_names(kind: str) -> None:
    """a string where a list of names belongs is shown beside the list that was meant."""
    with pytest.raises(TypeError) as caught:
        module_with(**{kind: "db"})
    assert says(caught.value, kind, "got the string 'db'; did you mean ['db']?")


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
def test_a_dependency_named_twice(kind: str) -> None:
    """a dependency that is listed twice is named."""
    with pytest.raises(GraphError) as caught:
        module_with(**{kind: ["db", "db"]})
    assert says(caught.value, "'web'", "'db'")


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_bad_module_name(name: str) -> None:
    """a module's name that is empty or has a slash is shown."""
    with pytest.raises(ValueError, match="name") as caught:
        Module(name)
    assert says(caught.value, repr(name))


DECLARATIONS: list[tuple[str, Callable[[Module, Any], object]]] = [
    ("on_prep", lambda module, fn: module.on_prep(fn)),
    ("on_start", lambda module, fn: module.on_start(fn)),
    ("on_stop", lambda module, fn: module.on_stop(fn)),
    ("worker", lambda module, fn: module.worker(fn)),
    ("service_worker", lambda module, fn: module.service_worker(fn)),
    ("every", lambda module, fn: module.every(1, fn)),
    ("task", lambda module, fn: module.task(fn)),
    ("new_task", lambda module, fn: module.new_task(fn)),
    ("start_service_worker", lambda module, fn: module.start_service_worker(fn)),
    ("guarded", lambda module, fn: module.guarded(fn)),
    ("Module(prep=)", lambda module, fn: Module("other", prep=fn)),
    ("Module(start=)", lambda module, fn: Module("other", start=fn)),
    ("Module(stop=)", lambda module, fn: Module("other", stop=fn)),
    ("App(prep=)", lambda module, fn: App(module, prep=fn)),
    ("App(command=)", lambda module, fn: App(module, command=fn)),
]

# What calls the function with one argument, or with what comes later.
TAKES_ONE = {"guarded", "task", "new_task"}


@pytest.mark.parametrize(("name", "declare"), DECLARATIONS, ids=[name for name, _ in DECLARATIONS])
def test_a_sync_function(name: str, declare: Callable[[Module, Any], object]) -> None:
    """a sync function where an async one is needed is named at the declaration."""
    with pytest.raises(TypeError) as caught:
        declare(Module("web"), not_async)
    assert says(caught.value, "async function", "not_async")


@pytest.mark.parametrize(
    ("name", "declare"),
    [entry for entry in DECLARATIONS if entry[0] not in TAKES_ONE],
    ids=[name for name, _ in DECLARATIONS if name not in TAKES_ONE],
)
def test_a_signature_that_does_not_fit(name: str, declare: Callable[[Module, Any], object]) -> None:
    """a function that can't take its arguments is named at the declaration."""
    with pytest.raises(TypeError) as caught:
        declare(Module("web"), needs_one)
    assert says(caught.value, "needs_one", "value")


@pytest.mark.parametrize(
    ("function", "parts"),
    [(not_async, ("async function", "not_async")), (needs_one, ("needs_one", "value"))],
)
async def test_a_wrong_function_for_work_that_begins_now(
    function: Any, parts: tuple[str, ...]
) -> None:
    """start_worker and run_worker refuse a sync function and one that can't take its arguments."""
    web = Module("web")
    async with App(web):
        with pytest.raises(TypeError) as caught:
            web.start_worker(function)
        assert says(caught.value, *parts)
        with pytest.raises(TypeError) as caught:
            await web.run_worker(function)
        assert says(caught.value, *parts)
        assert web.online


def test_a_lifespan_that_is_no_generator() -> None:
    """a lifespan that doesn't yield is named at the declaration."""
    with pytest.raises(TypeError) as caught:
        Module("web").lifespan(nothing)  # type: ignore[arg-type]
    assert says(caught.value, "nothing", "yield")


WORK: list[tuple[str, Callable[[Module], object]]] = [
    ("start_worker", lambda module: module.start_worker(nothing)),
    ("start_service_worker", lambda module: module.start_service_worker(nothing)),
    ("nursery", lambda module: module.nursery),
    ("queue", lambda module: module.new_task(needs_one_task).queue()),
    ("schedule", lambda module: module.new_task(needs_one_task).schedule(5)),
    ("repeat", lambda module: module.new_task(needs_one_task).repeat(60)),
]


@pytest.mark.parametrize(("name", "give"), WORK, ids=[name for name, _ in WORK])
async def test_work_for_an_offline_module(name: str, give: Callable[[Module], object]) -> None:
    """work for a module that takes none is refused with its name and status."""
    web = Module("web")
    App(web)
    with pytest.raises(ModuleOffline) as caught:
        give(web)
    assert says(caught.value, "'web'", "DEAD")


async def test_running_a_worker_of_an_offline_module() -> None:
    """run_worker refuses for an offline module, with its name and status."""
    with pytest.raises(ModuleOffline) as caught:
        await Module("web").run_worker(nothing)
    assert says(caught.value, "'web'", "DEAD")


async def test_orders_for_a_task_that_can_not_be_followed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """what a task can't do is said with its name and its module's, or with the argument."""
    web = Module("web")
    async with App(web):
        task = web.new_task(needs_one_task, "sweep")
        with pytest.raises(ValueError, match="interval") as too_fast:
            task.repeat(5)
        assert says(too_fast.value, "at least", "60 s", "got 5", "Module.every")
        with pytest.raises(ValueError, match="at") as too_early:
            task.schedule(-5)
        assert says(too_early.value, "got -5", "schedule_after")
        with pytest.raises(RuntimeError) as not_pending:
            await task.wait()
        assert says(not_pending.value, "'sweep'", "'web'", "neither queued nor scheduled")
        task.cancel()
        with pytest.raises(TaskCancelled) as cancelled:
            task.queue()
        assert says(cancelled.value, "'sweep'", "'web'", "was cancelled")


def pool_of(module: Module) -> Resource[str]:
    async def pool() -> AsyncGenerator[str]:
        yield "connection"

    return module.lifespan(pool)


async def test_a_resource_without_a_declared_dependency(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """a resource read by a module that doesn't depend on its owner names both and the remedy."""
    db, web = Module("db"), Module("web")
    pool = pool_of(db)
    errors: list[UndeclaredDependency] = []

    async def read() -> None:
        try:
            _ = pool.value
        except UndeclaredDependency as error:
            errors.append(error)

    async with App(db, web):
        await web.run_worker(read)
    assert says(errors[0], "'web'", "'db'", "depends_on")


async def test_a_resource_of_an_offline_module() -> None:
    """a resource read while its module is offline names the module."""
    db = Module("db")
    with pytest.raises(ModuleOffline) as caught:
        _ = pool_of(db).value
    assert says(caught.value, "'db'", "DEAD")


async def test_a_module_in_two_running_apps() -> None:
    """a module that serves a running app is refused by a second one, with its name."""
    db = Module("db")
    async with App(db, name="first"):
        with pytest.raises(RuntimeError) as caught:
            async with App(db, name="second"):
                raise AssertionError("the body must not run")
    assert says(caught.value, "'db'", "another running app")


async def test_an_app_entered_twice() -> None:
    """entering an app that runs is refused, with its name."""
    app = App(name="hub")
    async with app:
        with pytest.raises(RuntimeError) as caught:
            async with app:
                raise AssertionError("the body must not run")
    assert says(caught.value, "'hub'")


async def test_waiting_for_oneself_in_a_stop_function(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """shutdown() in a stop function is refused at once and names the module."""
    db = Module("db")
    app = App(db)

    @db.on_stop
    async def stop() -> None:
        await app.shutdown()

    with pytest.raises(ShutdownError) as caught:
        async with app:
            await trio.lowlevel.checkpoint()
    stop_error = caught.value.exceptions[0]
    assert isinstance(stop_error, StopError)
    assert isinstance(stop_error.exceptions[0], RuntimeError)
    assert says(stop_error.exceptions[0], "shutdown()", "'db'")


async def test_waiting_for_oneself_in_a_start_function(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """manage() in a start function is refused at once and names the module."""
    db = Module("db")
    app = App(db)

    @db.on_start
    async def start() -> None:
        await app.manage()

    with pytest.raises(StartError) as caught:
        async with app:
            raise AssertionError("the body must not run")
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert says(cause, "manage()", "'db'")


TIMES: list[tuple[str, Callable[[float], object]]] = [
    ("start_timeout", lambda value: App(start_timeout=value)),
    ("stop_timeout", lambda value: App(stop_timeout=value)),
    ("restart_settle", lambda value: App(restart_settle=value)),
    ("min_repeat_interval", lambda value: App(min_repeat_interval=value)),
    ("start_timeout", lambda value: Module("db", start_timeout=value)),
    ("stop_timeout", lambda value: Module("db", stop_timeout=value)),
    ("initial", lambda value: Backoff(initial=value)),
    ("maximum", lambda value: Backoff(maximum=value)),
    ("jitter", lambda value: Backoff(jitter=value)),
    ("reset_after", lambda value: Backoff(reset_after=value)),
    ("within", lambda value: Restart(within=value)),
    ("interval", lambda value: Module("db").every(value, nothing)),
    ("jitter", lambda value: Module("db").every(1, nothing, jitter=value)),
    ("after", Retry),
    ("every", lambda value: Module("db").task(needs_one_task, every=value)),
    ("jitter", lambda value: Module("db").task(needs_one_task, every=60, jitter=value)),
    ("seconds", lambda value: Module("db").new_task(needs_one_task).max_delay(value)),
    ("grace_period", lambda value: Module("db").worker(nothing, grace_period=value)),
    ("backoff", lambda value: Module("db").service_worker(nothing, backoff=value)),
]


@pytest.mark.parametrize("value", [-1, math.nan], ids=["negative", "NaN"])
@pytest.mark.parametrize(
    ("name", "use"), TIMES, ids=[f"{index}-{name}" for index, (name, _) in enumerate(TIMES)]
)
def test_a_bad_time(name: str, use: Callable[[float], object], value: float) -> None:
    """a negative time or NaN is refused; argument and value are named."""
    with pytest.raises(ValueError, match=name) as caught:
        use(value)
    assert says(caught.value, name, repr(value))


def test_a_naive_time() -> None:
    """a datetime without a timezone is refused; argument and value are named."""
    naive = datetime(2030, 1, 2, 3, 4)  # noqa: DTZ001
    with pytest.raises(ValueError, match="epoch") as caught:
        App(epoch=naive)
    assert says(caught.value, "epoch", repr(naive))


@pytest.mark.parametrize("name", ["drain_delay", "shutdown_timeout"])
@pytest.mark.parametrize("value", [-1, math.nan], ids=["negative", "NaN"])
async def test_a_bad_time_for_serve(name: str, value: float) -> None:
    """serve refuses negative times and NaN before the app is entered."""
    ran: list[str] = []

    async def prep() -> None:
        ran.append("prep")

    options: dict[str, Any] = {"drain_delay": 0.0, "shutdown_timeout": 1.0} | {name: value}
    with pytest.raises(ValueError, match=name) as caught:
        await serve(App(prep=prep), signals=False, **options)
    assert says(caught.value, name, repr(value))
    assert ran == []


async def test_a_bad_extension(autojump_clock: trio.testing.MockClock) -> None:
    """extend_timeout refuses a negative time; argument and value are named."""
    db = Module("db")

    @db.on_start
    async def start() -> None:
        db.extend_timeout(-5)

    with pytest.raises(StartError) as caught:
        async with App(db):
            raise AssertionError("the body must not run")
    assert isinstance(caught.value.__cause__, ValueError)
    assert says(caught.value.__cause__, "seconds", "-5")


async def test_a_grace_period_beyond_the_stop_timeout() -> None:
    """a grace period above three quarters of the stop timeout shows both."""
    db = Module("db", stop_timeout=8)
    with pytest.raises(ValueError, match="grace_period") as caught:
        async with App(db):
            db.start_worker(nothing, grace_period=6.5)
    assert says(caught.value, "grace_period", "6.5", "8")


COUNTS: list[tuple[str, Callable[[int], object]]] = [
    ("max_restarts", lambda value: Restart(max_restarts=value)),
    ("max_concurrent_restarts", lambda value: App(max_concurrent_restarts=value)),
    ("max_concurrent_tasks", lambda value: App(max_concurrent_tasks=value)),
    ("max_concurrent_microtasks", lambda value: App(max_concurrent_microtasks=value)),
]


@pytest.mark.parametrize(("name", "use"), COUNTS, ids=[name for name, _ in COUNTS])
def test_a_bad_count(name: str, use: Callable[[int], object]) -> None:
    """a negative number of something is refused; argument and value are named."""
    with pytest.raises(ValueError, match=name) as caught:
        use(-2)
    assert says(caught.value, name, "-2")


KINDS: list[tuple[str, str, Callable[[], object]]] = [
    ("restart", "3", lambda: module_with(restart=3)),
    ("depends_on", "3", lambda: module_with(depends_on=3)),
    ("depends_on", "3", lambda: module_with(depends_on=[3])),
    ("restart", "3", lambda: module_with().service_worker(nothing, restart=3)),  # type: ignore[call-overload]
    ("backoff", "'fast'", lambda: module_with().service_worker(nothing, backoff="fast")),  # type: ignore[call-overload]
    ("id", "3", lambda: module_with().set_hint(3, "all is well")),  # type: ignore[arg-type]
    ("name", "3", lambda: Module(3)),  # type: ignore[arg-type]
    ("name", "3", lambda: module_with().worker(nothing, name=3)),  # type: ignore[call-overload]
    ("cancel_scope", "3", lambda: module_with().start_worker(nothing, cancel_scope=3)),  # type: ignore[arg-type]
    ("rng", "3", lambda: App(rng=3)),  # type: ignore[arg-type]
    ("epoch", "'today'", lambda: App(epoch="today")),  # type: ignore[arg-type]
    ("max_concurrent_tasks", "1.5", lambda: App(max_concurrent_tasks=1.5)),  # type: ignore[arg-type]
    ("backoff", "3", lambda: Restart(backoff=3)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("name", "shown", "use"), KINDS, ids=range(len(KINDS)))
def test_a_value_of_a_wrong_kind(name: str, shown: str, use: Callable[[], object]) -> None:
    """it is refused; argument and value are named."""
    with pytest.raises(TypeError, match=name) as caught:
        use()
    assert says(caught.value, name, shown)


def test_a_grid_without_an_interval() -> None:
    """a beat every zero seconds is refused, like one of negative length."""
    with pytest.raises(ValueError, match="interval") as caught:
        Module("db").every(0, nothing)
    assert says(caught.value, "interval", "0")


CHOICES: list[tuple[str, Callable[[str], object]]] = [
    ("growth", lambda value: Backoff(growth=value)),  # type: ignore[arg-type]
    ("exhausted", lambda value: Restart(exhausted=value)),  # type: ignore[arg-type]
    ("missed", lambda value: Module("db").every(1, nothing, missed=value)),  # type: ignore[call-overload]
]


@pytest.mark.parametrize(("name", "use"), CHOICES, ids=[name for name, _ in CHOICES])
def test_an_unknown_choice(name: str, use: Callable[[str], object]) -> None:
    """a word that is none of the choices is refused; argument, value and choices are named."""
    with pytest.raises(ValueError, match=name) as caught:
        use("wrong")
    assert says(caught.value, name, "'wrong'")


@pytest.mark.parametrize("setter", ["set_hint", "set_warning", "set_error"])
def test_a_failure_id_that_looks_like_a_message(setter: str) -> None:
    """a failure's id with spaces is shown and said to look like a message."""
    with pytest.raises(ValueError, match="looks like a message") as caught:
        getattr(Module("db"), setter)("disk is full", "ninety percent")
    assert says(caught.value, "id", "'disk is full'")


def test_a_failure_id_of_the_framework() -> None:
    """a failure's id with a colon is shown: those are the framework's own."""
    with pytest.raises(ValueError, match="id") as caught:
        Module("db").set_error("db:crashed", "not by us")
    assert says(caught.value, "'db:crashed'", "':'")


def test_a_subclass_that_shadows_a_public_name() -> None:
    """a subclass with an attribute named like a public one fails when the class is made."""
    with pytest.raises(TypeError) as caught:
        type("Database", (Module,), {"status": "fine"})
    assert says(caught.value, "Database", "status")


def test_an_unknown_module() -> None:
    """looking up a module that isn't there shows the name."""
    with pytest.raises(KeyError) as caught:
        App(Module("db"))["databse"]
    assert "'databse'" in str(caught.value)


def test_a_module_of_another_type() -> None:
    """app.get names the module, its type and the one that was asked for."""

    class Database(Module):
        """A module of its own type."""

    with pytest.raises(TypeError) as caught:
        App(Module("db")).get("db", Database)
    assert says(caught.value, "'db'", "Database", "Module")


async def test_supervise_checks_its_function() -> None:
    """supervise refuses a sync function and a signature that can't take the arguments."""
    with pytest.raises(TypeError) as caught:
        await supervise(not_async)  # type: ignore[arg-type]
    assert says(caught.value, "async function", "not_async")
    with pytest.raises(TypeError) as caught:
        await supervise(needs_one)  # type: ignore[arg-type]
    assert says(caught.value, "needs_one", "value")


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_modules", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    """Return a folder with files that a TARGET may wrongly point to."""
    (tmp_path / "plain.py").write_text("number = 5\n")
    (tmp_path / "broken.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "factory.py").write_text("def make():\n    return 'text'\n")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "culprit"),
    [
        ("missing.py:app", "missing.py"),
        ("plain.py:app", "'app'"),
        ("plain.py:number", "number"),
        ("plain.py", "plain.py"),
        ("factory.py:make", "make"),
        ("a_package_that_is_missing:app", "a_package_that_is_missing"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "graph"])
def test_a_bad_target(
    targets: Path, monkeypatch: pytest.MonkeyPatch, command: str, target: str, culprit: str
) -> None:
    """a TARGET that doesn't exist or isn't an app is one line, exit code 2, never a traceback."""
    monkeypatch.chdir(targets)
    result = command_line(command, target)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert culprit in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("target", "culprit"),
    [("broken.py:app", "a_package_that_is_missing"), ("syntax.py:app", "syntax.py")],
)
def test_a_target_with_a_bug(
    targets: Path, monkeypatch: pytest.MonkeyPatch, target: str, culprit: str
) -> None:
    """what the user's own file raises while it is imported keeps its traceback."""
    monkeypatch.chdir(targets)
    result = command_line("check", target)
    assert result.returncode == 1
    assert culprit in result.stderr
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("begin", "shown"),
    [
        (lambda module, fn: module.new_task(fn), "new_task can't call .*nothing' .*<the task>,"),
        (lambda module, fn: module.task(fn, every=60), "task can't call .*nothing' .*<the task>,"),
        (lambda module, fn: module.hook("m/event", fn), "hook can't call .*nothing' .*<the data>,"),
    ],
    ids=["new_task", "task", "hook"],
)
def test_a_wrong_signature_shows_what_will_be_given(
    begin: Callable[[Module, object], object], shown: str
) -> None:
    """an argument that comes later is named, since there is no value yet."""

    async def nothing() -> None:
        pass

    with pytest.raises(TypeError, match=shown):
        begin(Module("m"), nothing)
