"""The command line: what it runs, draws and checks, and how it answers what was typed wrong."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_helpers import CLI, Ended, python, run_python

SERVICE = """
import logging
import trio
from trio_modules import App, Module

def say(text):
    print(text, flush=True)

async def never():
    say("something was started")

store = Module("store", prep=never, start=never)
web = Module("web", depends_on=[store])
alerts = Module("alerts", depends_on=[web, store])
console = Module("console", wants=[web])
app = App(store, web, alerts, console, prep=never)

async def wait():
    say("ready")
    await trio.sleep_forever()

def waiting():
    return App(Module("waiting", start=wait), name="waiting")

def echo(arguments):
    async def command():
        say(repr(arguments))
    return App(command=command)

def echo_if_any(arguments=("none",)):
    return echo(arguments)

def quiet():
    return App(command=trio.lowlevel.checkpoint)

def exit_with_7():
    async def command():
        raise SystemExit(7)
    return App(command=command)

def broken():
    async def start():
        raise OSError("the disk is gone")
    return App(Module("db", start=start))

def logging_at_all_levels():
    db = Module("db")
    async def command():
        for level in ("debug", "info", "warning", "error"):
            getattr(db.logger, level)("a line at %s", level)
    return App(db, command=command)

def parsing(arguments):
    import argparse
    parser = argparse.ArgumentParser("parsing")
    parser.add_argument("--count", type=int)
    parser.parse_args(arguments)
    return App(command=trio.lowlevel.checkpoint)

def circle():
    return App(Module("a", depends_on=["b"]), Module("b", depends_on=["c"]),
               Module("c", depends_on=["a"]))

def unknown():
    return App(Module("a", depends_on=["nobody"]))

def odd_names():
    first = Module('the "first" one')
    return App(first, Module("second-one [x]", depends_on=[first]), Module("end", wants=[first]))

def failing_factory():
    raise ValueError("the factory failed")

def two(first, second):
    return app

def number():
    return 5

async def make_async():
    return app

five = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a service in it."""
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


async def cli(folder: Path, *args: object) -> Ended:
    return await run_python(*CLI, *args, cwd=folder)


def assert_one_line(ended: Ended, *parts: str) -> None:
    """One line on stderr that names its parts, exit code 2, and nothing else."""
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert [part for part in parts if part not in line] == []
    assert ended.code == 2


# --- run ---------------------------------------------------------------------------------------


@pytest.mark.process
async def test_run_runs_until_a_signal(folder: Path) -> None:
    """Ctrl-C ends the app with exit code 0 and without a traceback."""
    async with python(*CLI, "run", "service.py:waiting", cwd=folder) as running:
        await running.ready()
        running.send(signal.SIGINT)
        assert await running.exit_code() == 0
    assert "Traceback" not in running.stderr.text


@pytest.mark.process
async def test_the_exit_code_is_that_of_the_app(folder: Path) -> None:
    """what run returns is what the shell sees."""
    assert (await cli(folder, "run", "service.py:exit_with_7")).code == 7


@pytest.mark.process
async def test_a_failed_start_is_no_mistake_at_the_keyboard(folder: Path) -> None:
    """it exits with 1 and shows where the user's code failed."""
    ended = await cli(folder, "run", "service.py:broken")
    assert ended.code == 1
    assert "Traceback" in ended.stderr
    assert "the disk is gone" in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("args", "given"),
    [
        ([], []),
        (["--"], []),
        (["--", "--name", "lab", "x"], ["--name", "lab", "x"]),
        (["--", "--log-level", "debug", "--", "--help"], ["--log-level", "debug", "--", "--help"]),
    ],
)
async def test_a_factory_gets_the_arguments(
    folder: Path, args: list[str], given: list[str]
) -> None:
    """what stands after -- reaches the factory as a list, whatever it looks like."""
    ended = await cli(folder, "run", "service.py:echo", *args)
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"{given!r}\n", "")


@pytest.mark.process
async def test_a_factory_with_a_default_gets_the_arguments(folder: Path) -> None:
    """a function that may take an argument is given the list."""
    ended = await cli(folder, "run", "service.py:echo_if_any", "--", "one")
    assert (ended.code, ended.stdout) == (0, "['one']\n")


@pytest.mark.process
@pytest.mark.parametrize("target", ["service.py:app", "service.py:quiet"])
async def test_arguments_that_nobody_takes(folder: Path, target: str) -> None:
    """arguments for an app, or for a function without a parameter, are a mistake and named."""
    ended = await cli(folder, "run", target, "--", "--name", "lab")
    assert_one_line(ended, target, "--name")


@pytest.mark.process
async def test_the_targets_own_parser_answers_for_its_arguments(folder: Path) -> None:
    """a SystemExit of the factory passes: its message and its exit code are the user's."""
    ended = await cli(folder, "run", "service.py:parsing", "--", "--count", "many")
    assert ended.code == 2
    assert "parsing: error: argument --count: invalid int value: 'many'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
async def test_the_log_level(folder: Path, level: str, shown: list[str]) -> None:
    """--log-level says what is logged to stderr, in either case."""
    ended = await cli(folder, "run", "service.py:logging_at_all_levels", "--log-level", level)
    assert ended.code == 0
    assert re.findall(r"a line at (\w+)", ended.stderr) == shown
    assert ended.stdout == ""


@pytest.mark.process
async def test_a_log_line_names_module_and_level(folder: Path) -> None:
    """a line of the log says which module logged it and how bad it is."""
    ended = await cli(folder, "run", "service.py:logging_at_all_levels")
    (line,) = [line for line in ended.stderr.splitlines() if "a line at error" in line]
    assert re.search(r"\bERROR\b.*\bdb\b", line, re.IGNORECASE)


# --- TARGET ------------------------------------------------------------------------------------


@pytest.mark.process
async def test_a_file_finds_its_neighbours(tmp_path: Path) -> None:
    """a file's own folder is where its imports are looked up, wherever the command is typed."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "parts.py").write_text("name = 'the neighbour'\n")
    source = "import parts\nfrom trio_modules import App, Module\napp = App(Module(parts.name))\n"
    (tmp_path / "inner" / "main.py").write_text(source)
    for target in ("inner/main.py:app", tmp_path / "inner" / "main.py:app"):
        ended = await cli(tmp_path, "graph", target)
        assert (ended.code, ended.stderr) == (0, "")
        assert "the neighbour" in ended.stdout


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return a script like the one that an installer writes, in a folder of its own."""
    path = tmp_path / "bin" / "trio-modules"
    path.parent.mkdir()
    path.write_text("import sys\nfrom trio_modules.__main__ import main\nsys.exit(main())\n")
    return path


@pytest.mark.process
async def test_a_dotted_name_is_found_from_the_working_directory(
    folder: Path, script: Path
) -> None:
    """the installed command finds package.module:attribute where it is typed."""
    (folder / "hub").mkdir()
    (folder / "hub" / "__init__.py").write_text("")
    (folder / "hub" / "main.py").write_text("from service import app\n")
    ended = await run_python(script, "check", "hub.main:app", cwd=folder)
    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.process
async def test_the_installed_command_is_the_same(folder: Path, script: Path) -> None:
    """the command's script and python -m print the same."""
    args = ("graph", "service.py:app")
    ended = await run_python(script, *args, cwd=folder)
    assert ended == await cli(folder, *args)
    assert ended.code == 0


WRONG_TARGETS = [
    ("service.py", ["service.py"]),
    ("service.py:", ["service.py:"]),
    (":app", [":app"]),
    ("", ["''"]),
    (".:app", ["'.'"]),
    ("service.nothing:app", ["service.nothing"]),
    ("no such name:app", ["no such name"]),
    ("..service:app", ["..service"]),
    ("service.py:five", ["five", "got 5"]),
    ("service.py:number", ["number", "got 5"]),
    ("service.py:store", ["store", "Module"]),
    ("service.py:two", ["two", "second"]),
    ("service.py:make_async", ["make_async"]),
    ("service.py:App", ["App"]),
]


@pytest.mark.process
@pytest.mark.parametrize(("target", "parts"), WRONG_TARGETS)
async def test_a_wrong_target(folder: Path, target: str, parts: list[str]) -> None:
    """one that is no app is one line that shows it, exit code 2, never a traceback."""
    assert_one_line(await cli(folder, "check", target), *parts)


@pytest.mark.process
async def test_an_exception_of_the_users_code_is_shown_whole(folder: Path) -> None:
    """a factory that fails is a bug of the program: its traceback is what the user needs."""
    ended = await cli(folder, "check", "service.py:failing_factory")
    assert ended.code == 1
    assert "ValueError: the factory failed" in ended.stderr
    assert "in failing_factory" in ended.stderr


# --- what else may be typed wrong --------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["start", "service.py:app"], ["'start'", "run", "graph", "check"]),
        (["run"], ["TARGET"]),
        (["run", "service.py:app", "--fast"], ["--fast"]),
        (["run", "service.py:app", "--log-level", "loud"], ["--log-level", "'loud'", "debug"]),
        (["graph", "service.py:app", "--format", "png"], ["--format", "'png'", "mermaid"]),
        (["check", "service.py:app", "more"], ["more"]),
        ([], ["run", "graph", "check"]),
    ],
)
async def test_a_wrong_command(folder: Path, args: list[str], parts: list[str]) -> None:
    """it is one line that names what is wrong and what would be right, and exit code 2."""
    assert_one_line(await cli(folder, *args), *parts)


@pytest.mark.process
@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["graph", "--help"]])
async def test_help(folder: Path, args: list[str]) -> None:
    """it goes to stdout with exit code 0 and names what there is."""
    ended = await cli(folder, *args)
    assert (ended.code, ended.stderr) == (0, "")
    assert ("TARGET" if len(args) > 1 else "check") in ended.stdout


# --- graph -------------------------------------------------------------------------------------


@pytest.mark.process
async def test_the_tree(folder: Path) -> None:
    """each module has what it depends on below it, soft ones in parentheses; nothing is run."""
    ended = await cli(folder, "graph", "service.py:app")
    assert (ended.code, ended.stderr) == (0, "")
    assert "something was started" not in ended.stdout
    assert below(ended.stdout, "alerts") == ["web", "store", "store"]
    assert below(ended.stdout, "console") == ["web"]
    assert "(web)" in ended.stdout


@pytest.mark.process
async def test_tree_is_the_default(folder: Path) -> None:
    """without --format the graph is a tree."""
    named = await cli(folder, "graph", "service.py:app", "--format", "tree")
    assert named == await cli(folder, "graph", "service.py:app")


CHAIN = """\
from trio_modules import App, Module

app = App(*[Module(f"m{n}", depends_on=[f"m{n - 1}"] if n else []) for n in range(2000)])
"""


@pytest.mark.process
@pytest.mark.parametrize("format_", ["tree", "mermaid", "dot"])
async def test_the_graph_of_a_long_chain(folder: Path, format_: str) -> None:
    """it doesn't end in a recursion."""
    (folder / "chain.py").write_text(CHAIN)
    ended = await cli(folder, "graph", "chain.py:app", "--format", format_)
    assert (ended.code, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) >= 2000


def below(tree: str, name: str) -> list[str]:
    """Return the names under the first line of a name, as far as they are indented more."""
    lines = [
        (len(re.split(r"\w", line)[0]), re.findall(r"\w+", line)) for line in tree.splitlines()
    ]
    start = next(index for index, (_, words) in enumerate(lines) if name in words)
    indent = lines[start][0]
    found = []
    for depth, words in lines[start + 1 :]:
        if depth <= indent:
            break
        found.append(words[0])
    return found


EDGES = {("web", "store", True), ("alerts", "web", True), ("alerts", "store", True)}


@pytest.mark.process
async def test_the_mermaid_graph(folder: Path) -> None:
    """it has a node for each module, an arrow for each dependency, a dotted one for a soft one."""
    ended = await cli(folder, "graph", "service.py:app", "--format", "mermaid")
    assert (ended.code, ended.stderr) == (0, "")
    assert re.match(r"(graph|flowchart) (TD|TB|BT|LR|RL)\n", ended.stdout)
    assert set(mermaid_edges(ended.stdout)) == {*EDGES, ("console", "web", False)}


def mermaid_edges(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (from, to, whether it is a hard one) by the labels of the nodes."""
    node = r'(\w+)(?:\["([^"]*)"\])?'
    labels = {key: label for key, label in re.findall(node, text) if label}
    for start, _, arrow, end, _ in re.findall(
        rf"^\s*{node} *(-->|-\.->) *{node}", text, re.MULTILINE
    ):
        yield labels.get(start, start), labels.get(end, end), arrow == "-->"


@pytest.mark.process
async def test_the_dot_graph(folder: Path) -> None:
    """it has an edge for each dependency, a dashed or dotted one for a soft one."""
    ended = await cli(folder, "graph", "service.py:app", "--format", "dot")
    assert (ended.code, ended.stderr) == (0, "")
    assert re.match(r'digraph( "?\w+"?)? \{\n', ended.stdout)
    assert ended.stdout.rstrip().endswith("}")
    assert set(dot_edges(ended.stdout)) == {*EDGES, ("console", "web", False)}


QUOTED = r'"((?:[^"\\]|\\.)*)"'


def dot_edges(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (from, to, whether it is a hard one)."""
    for line in text.splitlines():
        if match := re.match(rf"\s*{QUOTED} -> {QUOTED}(.*)", line):
            start, end, style = (part.replace('\\"', '"') for part in match.groups())
            yield start, end, "style" not in style


@pytest.mark.process
async def test_odd_names_are_quoted(folder: Path) -> None:
    """quotes and brackets in a name break neither a dot nor a mermaid graph."""
    dot = await cli(folder, "graph", "service.py:odd_names", "--format", "dot")
    assert set(dot_edges(dot.stdout)) == {
        ("second-one [x]", 'the "first" one', True),
        ("end", 'the "first" one', False),
    }
    mermaid = await cli(folder, "graph", "service.py:odd_names", "--format", "mermaid")
    assert set(mermaid_edges(mermaid.stdout)) == {
        ("second-one [x]", "the #quot;first#quot; one", True),
        ("end", "the #quot;first#quot; one", False),
    }


# --- check -------------------------------------------------------------------------------------


@pytest.mark.process
async def test_check_starts_nothing(folder: Path) -> None:
    """a target that is all right is said to be so, exit code 0, without prep or start."""
    ended = await cli(folder, "check", "service.py:app")
    assert (ended.code, ended.stderr) == (0, "")
    assert "something was started" not in ended.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("target", "parts"),
    [("circle", ["'a' -> 'b' -> 'c' -> 'a'"]), ("unknown", ["'a'", "'nobody'"])],
)
@pytest.mark.parametrize("command", ["check", "graph", "run"])
async def test_a_graph_that_is_wrong(
    folder: Path, command: str, target: str, parts: list[str]
) -> None:
    """a cycle and an unknown dependency are one line that names all of it, exit code 2."""
    assert_one_line(await cli(folder, command, f"service.py:{target}"), *parts)
