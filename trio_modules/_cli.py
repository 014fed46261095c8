"""The command line: ``trio-modules run``, ``graph``, ``check``, and what others bring along.

What the user typed wrong is one clear line on stderr and exit code 2, never a traceback; what the
user's own code raises while it is imported keeps its traceback.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import attrs

from trio_modules._app import App
from trio_modules._exceptions import GraphError
from trio_modules._order import near_misses
from trio_modules._run import run
from trio_modules._version import __version__

__all__ = ["Command", "Target", "main"]

_LEVELS = ("debug", "info", "warning", "error", "critical")


class _UsageError(Exception):
    """Something that the user typed can't be right."""


@attrs.frozen
class Target:
    """What TARGET and ARGS name; called, it makes it anew where it is a function.

    Attributes:
        text: TARGET as typed.
        args: ARGS, for a function that takes them.
    """

    text: str
    args: tuple[str, ...] = ()

    def __call__(self) -> object:
        return _made(_find(self.text), self.text, list(self.args))

    def find(self, option: str, text: str) -> object:
        """What the text of an option names, which has the form of TARGET."""
        return _find(text, option)

    def app(self) -> App:
        """It, if it is an app."""
        found = self()
        if not isinstance(found, App):
            if inspect.iscoroutine(found):
                found.close()
            raise _UsageError(f"{self.text!r} must return an App, got {found!r}")
        return found


@attrs.frozen
class Command:
    """A subcommand that somebody else brings along.

    Attributes:
        name: what is typed.
        text: what it does, for the help.
        usage: its options, for the help.
        add_options: adds them to a parser.
        run: does it, and returns the exit code.
        mistakes: exceptions that say what the user typed wrong.
        log_level: from where on logs are shown by default.
    """

    name: str
    text: str
    usage: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Target, argparse.Namespace], int]
    mistakes: tuple[type[Exception], ...] = ()
    log_level: str = "info"


def is_own(name: str) -> bool:
    """Whether this room has a command of that name."""
    return any(command.name == name for command in _COMMANDS)


def main(argv: Sequence[str] | None = None, more: Sequence[Command] = ()) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: the arguments, without the program's name; those of the process by default.
        more: commands beside those of this room.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    own, args = _split(given)
    mistakes: tuple[type[Exception], ...] = (_UsageError, GraphError)
    for command in more:
        mistakes += command.mistakes
    try:
        options = _parser([*_COMMANDS, *more]).parse_args(own)
        logging.basicConfig(
            level=options.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        chosen: Callable[[Target, argparse.Namespace], int] = options.command
        return chosen(Target(options.target, tuple(args)), options)
    except mistakes as exc:
        print(f"trio-modules: {exc}", file=sys.stderr)
        return 2


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    place = argv.index("--")
    return argv[:place], argv[place + 1 :]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is there for who asks for help."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see {self.prog} --help")


def _parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    parser = _Parser(prog="trio-modules", description="Run and look at services made of modules.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    names = ",".join(command.name for command in commands)
    parsers = parser.add_subparsers(required=True, metavar=f"{{{names}}}")
    for command in commands:
        _add(parsers, command)
    return parser


def _add(parsers: argparse._SubParsersAction[_Parser], command: Command) -> None:
    usage = f"trio-modules {command.name} TARGET{command.usage} [--log-level LEVEL] [-- ARGS]"
    parser = parsers.add_parser(
        command.name, help=command.text, description=command.text, usage=usage
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="package.module:attribute or file.py:attribute, an App or a function that returns one",
    )
    command.add_options(parser)
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default=command.log_level,
        type=str.lower,
        help=f"default: {command.log_level}",
    )
    parser.set_defaults(command=command.run)


# ---------------------------------------------------------------- commands


def _run(target: Target, _: argparse.Namespace) -> int:
    app = target.app()
    app.check()
    return run(app)


def _check(target: Target, _: argparse.Namespace) -> int:
    app = target.app()
    app.check()
    print(f"app {app.name!r}: {len(app)} modules, the graph is sound")
    return 0


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=sorted(_FORMATS), default="tree", help="default: tree")


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """Add no option."""


def _graph(target: Target, options: argparse.Namespace) -> int:
    app = target.app()
    app.check()
    for line in _FORMATS[options.format](app):
        print(line)
    return 0


def _hard_and_soft(app: App) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]]:
    return app._edges(app.modules, "depends on"), app._edges(app.modules, "wants")


def _tree(app: App) -> Iterator[str]:
    """Each module that nothing needs, and below it what it needs; soft ones in parentheses."""
    hard, soft = _hard_and_soft(app)
    needed = {name for edges in (hard, soft) for names in edges.values() for name in names}
    shown: set[str] = set()
    todo = [(name, name, 0) for name in reversed(list(hard)) if name not in needed]
    while todo:  # a loop, since a chain of modules may be longer than Python's stack
        name, label, depth = todo.pop()
        below = [(o, o, depth + 1) for o in hard[name]]
        below += [(o, f"({o})", depth + 1) for o in soft[name]]
        again = name in shown and below
        yield f"{depth * '  '}{label}{' ...' if again else ''}"
        if not again:
            shown.add(name)
            todo += reversed(below)


def _mermaid(app: App) -> Iterator[str]:
    hard, soft = _hard_and_soft(app)
    ids = {name: f"m{number}" for number, name in enumerate(hard)}
    yield "graph TD"
    for name, number in ids.items():
        text = name.replace('"', "#quot;")
        yield f'    {number}["{text}"]'
    for name in hard:
        for other in hard[name]:
            yield f"    {ids[name]} --> {ids[other]}"
        for other in soft[name]:
            yield f"    {ids[name]} -.-> {ids[other]}"


def _dot(app: App) -> Iterator[str]:
    hard, soft = _hard_and_soft(app)
    yield f"digraph {_quoted(app.name)} {{"
    for name in hard:
        yield f"    {_quoted(name)};"
    for name in hard:
        for other in hard[name]:
            yield f"    {_quoted(name)} -> {_quoted(other)};"
        for other in soft[name]:
            yield f"    {_quoted(name)} -> {_quoted(other)} [style=dashed];"
    yield "}"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_FORMATS: dict[str, Callable[[App], Iterator[str]]] = {
    "tree": _tree,
    "mermaid": _mermaid,
    "dot": _dot,
}

_COMMANDS = (
    Command(
        "run",
        "run the app until it has shut down; ARGS go to its factory",
        "",
        _add_nothing,
        _run,
    ),
    Command(
        "graph",
        "print what depends on what",
        " [--format tree|mermaid|dot]",
        _add_format,
        _graph,
    ),
    Command(
        "check",
        "check imports and graph, without starting anything",
        "",
        _add_nothing,
        _check,
    ),
)


# ---------------------------------------------------------------- the target


def _find(target: str, named: str = "TARGET") -> object:
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise _UsageError(
            f"{named} must be package.module:attribute or file.py:attribute, got {target!r}"
        )
    module = _load(place)
    found: object = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            hint = near_misses(name, vars(module)) if found is module else ""
            raise _UsageError(f"{place!r} has no attribute {name!r}{hint}")
        found = getattr(found, name)
    return found


@functools.cache  # or two targets in one file would each have modules of their own
def _load(place: str) -> ModuleType:
    return _load_file(Path(place)) if place.endswith(".py") else _load_module(place)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _UsageError(f"there is no file {str(path)!r}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise _UsageError(f"{name!r} is neither the name of a module nor a file that ends in .py")
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise _UsageError(f"there is no module {exc.name!r}") from None


def _made(found: object, target: str, args: list[str]) -> object:
    if isinstance(found, App):
        if args:
            raise _UsageError(f"{target!r} is an App and takes no arguments, got {args!r}")
        return found
    if not callable(found) or isinstance(found, type):
        raise _UsageError(
            f"{target!r} must be an App or a function that returns one, got {found!r}"
        )
    made: object = found(*_factory_args(found, target, args))
    return made


def _factory_args(
    factory: Callable[..., object], target: str, args: list[str]
) -> tuple[list[str], ...]:
    signature = inspect.signature(factory)
    try:
        signature.bind(args)
    except TypeError:
        if args:
            raise _UsageError(f"{target!r} takes no arguments, got {args!r}") from None
    else:
        return (args,)
    try:
        signature.bind()
    except TypeError:
        raise _UsageError(
            f"{target!r} must take no arguments or the list ARGS, but its signature is {signature}"
        ) from None
    return ()
