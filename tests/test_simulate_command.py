"""The command ``trio-modules simulate``: many seeds, the failing one in full, and mistakes."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from process_helpers import CLI, environment, run_python
from support import ctrl_c_raises

from trio_modules.__main__ import main
from trio_modules.testing import _command

SERVICE = """
import random
import signal
import threading
import trio
from trio_modules import App, Module, Restart

def make_app(arguments=()):
    store = Module("store", restart=Restart())
    shop = Module("shop", depends_on=[store], restart=Restart())
    other = Module("other", restart=Restart())
    lent = []

    @shop.service_worker(backoff=1)
    async def sell():
        while True:
            assert len(lent) < 3, "no connection is left"
            lent.append(1)
            await trio.sleep(60)
            if "sound" not in arguments:
                lent.pop()
            else:
                lent.clear()

    return App(store, shop, other, name="shop")

def capricious():
    module = Module("store")
    module.every(60 + random.random(), trio.lowlevel.checkpoint, name="beat")
    return App(module)

def threaded():
    module = Module("store")

    @module.worker
    async def work():
        await trio.to_thread.run_sync(threading.Event().wait, 5, abandon_on_cancel=True)

    return App(module)

def failing():
    raise ValueError("the factory failed")

def few(app):
    assert trio.current_time() < 1000, "it takes too long"

def no_app():
    pass

class Broken(Exception):
    pass

def talkative():
    module = Module("store", restart=Restart())

    @module.service_worker(backoff=1)
    async def work():
        print("at work")
        await trio.sleep(60)
        raise Broken("it is broken")

    return App(module)

def forgetful():
    module = Module("store")

    @module.service_worker(backoff=1)
    async def work():
        await trio.sleep(60)
        {}["nothing"]

    return App(module)

class Struck:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class BadEnd:
    def __del__(self):
        raise ValueError("bad end")

def struck_in_a_del():
    Struck(), BadEnd()
    return App(Module("store"))

five = 5

async def check_later(app):
    assert False

def check_nothing():
    assert False
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """Return a file with a service that forgets what it has lent."""
    path = tmp_path / "service.py"
    path.write_text(SERVICE)
    return path


class Answer:
    """What a command printed and returned."""

    def __init__(self, capsys: pytest.CaptureFixture[str], code: int) -> None:
        self.code = code
        self.out, self.err = capsys.readouterr()

    def line(self, begin: str) -> str:
        """The rest of the line that begins so."""
        (found,) = [line for line in self.out.splitlines() if line.startswith(begin)]
        return found.removeprefix(begin)


def simulate(capsys: pytest.CaptureFixture[str], target: object, *args: str) -> Answer:
    return Answer(capsys, main(["simulate", str(target), *args]))


def test_all_seeds_of_a_sound_service(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """it exits with 0 and one line that sums up."""
    answer = simulate(
        capsys, f"{service}:make_app", "--seeds", "0:3", "--duration", "6h", "--", "sound"
    )
    assert (answer.code, answer.err) == (0, "")
    assert re.fullmatch(r"3 seeds, \d+ strikes, \d+ restarts?: no promise broken\n", answer.out)


def test_the_first_seed_that_fails(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """it exits with 1, and shows what is wrong, how to see it again, and when it happened."""
    picture = service.parent / "failed.svg"
    answer = simulate(capsys, f"{service}:make_app", "--every", "20min", "--picture", str(picture))
    assert answer.code == 1
    seed = int(answer.line("replay: ").split("--seeds ")[1].split()[0])
    wrong = answer.line(f"seed {seed}: ")
    assert "there is a bug in 'sell' of 'shop': AssertionError(no connection is left)" in wrong
    assert re.search(r"^shop +\|.*x.*!\|$", answer.out, re.MULTILINE)
    assert "\nother" not in answer.out
    assert answer.line("picture: ") == str(picture)
    assert ET.fromstring(picture.read_text()).tag.endswith("svg")


@pytest.mark.parametrize("line", ["replay: ", "smaller: "])
def test_a_failure_is_replayed_by_one_line(
    line: str, service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """the commands that are shown fail in the same way at the same time."""
    options = ["--every", "20min", "--actions", "fail,crash", "--recovers-within", "never"]
    answer = simulate(capsys, f"{service}:make_app", *options)
    program, *words = shlex.split(answer.line(line))
    assert program == "trio-modules"
    again = Answer(capsys, main([*words, "--no-shrink"]))
    assert again.code == 1
    assert "smaller" not in again.out
    assert "AssertionError(no connection is left)" in again.out
    if line == "smaller: ":
        assert again.out.partition("\n\n")[2] == answer.out.partition("\n\n")[2]
    else:
        assert again.out.startswith(answer.out.partition("\n")[0])


def test_faults_by_name(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--fault takes what the lines show, alone or beside random ones."""
    fault = "fail('shop/worker:sell', OSError, at={}.0)"
    faults = [word for at in (30, 70, 100) for word in ("--fault", fault.format(at))]
    target = f"{service}:make_app"
    answer = simulate(capsys, target, "--seeds", "0", "--duration", "10min", *faults)
    assert answer.code == 1
    assert answer.line("replay: ").count("OSError") == 3
    assert "--every" not in answer.line("replay: ")
    answer = simulate(capsys, target, "--seeds", "0", *faults[:2], "--every", "1h", "--no-shrink")
    assert answer.line("replay: ").endswith("--every 3600")


def test_ctrl_c_may_strike_while_the_output_is_turned_back(
    service: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """what the service prints is lost, and what the command says is not."""

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(contextlib.redirect_stdout, "__exit__", strike)
    answer = simulate(capsys, f"{service}:make_app", "--seeds", "0:2", "--duration", "5min")
    assert (answer.code, answer.out) == (130, "0 seeds, 0 strikes, 0 restarts, then interrupted\n")


def test_ctrl_c_is_not_lost_in_a_del(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python can only print it there: the seed is the last, other trouble is still told."""
    told: list[object] = []
    with ctrl_c_raises(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda each: told.append(each.exc_value))
        hook = sys.unraisablehook
        answer = simulate(capsys, f"{service}:struck_in_a_del", "--seeds", "0:5")
        assert sys.unraisablehook is hook
    assert answer.code == 130
    assert answer.out.startswith("1 seed, ")
    assert answer.out.endswith(", then interrupted\n")
    assert set(map(repr, told)) == {"ValueError('bad end')"}


def test_a_fault_without_an_occasion_is_no_success(
    service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """what was to be tried was not, with any seed; one that strikes with some will do."""
    faults = ["--fault", "fail('shop/worker:sell', OSError, call=1)"]
    never = "crash('shop', at=999999)"
    options = [f"{service}:make_app", "--seeds", "0:2", "--duration", "5min"]
    answer = simulate(capsys, *options, *faults, "--fault", never, "--", "sound")
    assert answer.code == 1
    assert answer.out.endswith(f": no promise broken, but there was no occasion for {never}\n")
    assert simulate(capsys, *options, *faults, "--", "sound").code == 0


def test_a_check_and_a_part(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check names a function of the user's, --only the part that is simulated."""
    check = f"{service}:few"
    options = ["--seeds", "0", "--every", "never", "--only", "shop", "--check", check]
    answer = simulate(capsys, f"{service}:make_app", *options)
    assert answer.code == 1
    assert "the check failed: AssertionError(it takes too long)" in answer.out
    assert answer.line("replay: ").endswith(f"--every never --only shop --check {check}")


# A shell that runs the tests in the background has its children ignore SIGINT.
ALLOW_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
QUIET = ("--seeds", "0", "--duration", "10min", "--every", "never")


def test_what_the_service_prints_is_not_shown(
    service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """it would be printed once for each simulation, of which a failure takes many."""
    answer = simulate(capsys, f"{service}:talkative", *QUIET)
    assert (answer.code, answer.out) == (0, "1 seed, 0 strikes, 9 restarts: no promise broken\n")


@pytest.mark.parametrize("bug", ["RuntimeError", "{}:Broken"])
def test_exceptions_that_no_outage_explains(
    bug: str, service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--bug names one more, of Python's own or of the user's; the usual ones stay."""
    name = bug.format(service)
    options = (*QUIET, "--bug", name, "--no-shrink")
    answer = simulate(capsys, f"{service}:talkative", *options)
    assert answer.code == (1 if "Broken" in bug else 0)
    if answer.code:
        assert "there is a bug in 'work' of 'store': Broken(it is broken)" in answer.out
        assert answer.line("replay: ").endswith(f"--every never --bug {name}")
    assert simulate(capsys, f"{service}:forgetful", *options).code == 1


@pytest.mark.process
def test_ctrl_c_ends_it_with_one_line(service: Path) -> None:
    """it says how far it came, without a traceback, and exits with 130."""
    service.write_text(f"{SERVICE}\n{ALLOW_CTRL_C}")
    terminal, other_end = pty.openpty()
    running = subprocess.Popen(
        [
            sys.executable,
            *CLI,
            "simulate",
            f"{service}:make_app",
            "--seeds",
            "0:100000",
            "--",
            "sound",
        ],
        stdout=subprocess.PIPE,
        stderr=other_end,
        text=True,
        env=environment(),
    )
    os.close(other_end)
    shown = ""
    while "1/100000" not in shown:
        shown += os.read(terminal, 10_000).decode()
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    shown += os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert running.returncode == 128 + signal.SIGINT, shown + said
    assert re.fullmatch(r"\d+ seeds?, \d+ strikes?, \d+ restarts?, then interrupted\n", said)
    assert "Traceback" not in shown


MISTAKES: list[tuple[str, list[str], list[str]]] = [
    ("make_app", ["--seeds", "x"], ["--seeds", "0:1000", "'x'"]),
    ("make_app", ["--seeds", "5:5"], ["at least one seed", "'5:5'"]),
    ("make_app", ["--duration", "7 fortnights"], ["--duration", "7d", "'7 fortnights'"]),
    ("make_app", ["--duration", "0"], ["--duration", "'0'"]),
    ("make_app", ["--actions", "explode"], ["--actions", "fail", "'explode'"]),
    ("make_app", ["--jobs", "0"], ["--jobs", "'0'"]),
    ("make_app", ["--fault", "boom"], ["--fault", "fail('store/worker:poll'", "'boom'"]),
    ("make_app", ["--fault", "fail('shop/worker:buy')"], ["'worker:buy'", "did you mean"]),
    ("make_app", ["--fault", "fail('shopp/worker')"], ["'shopp'", "did you mean 'shop'"]),
    ("make_app", ["--targets", "nobody/*"], ["'nobody/*'", "shop/worker:sell"]),
    ("make_app", ["--only", "shopp"], ["'shopp'", "did you mean 'shop'"]),
    ("make_app", ["--check", "{}:five"], ["five", "must be a function", "5"]),
    ("make_app", ["--seeds=-3:2"], ["--seeds", "from 0 on", "'-3:2'"]),
    ("make_app", ["--check", "fakes"], ["--check must be package.module:attribute", "'fakes'"]),
    ("make_app", ["--check", "{}:check_later"], ["--check", "a sync function", "check_later"]),
    ("make_app", ["--check", "{}:check_nothing"], ["--check", "can't call 'check_nothing'"]),
    ("make_app", ["--picture", "/nowhere/at/all.svg"], ["--picture", "folder that is there"]),
    ("make_app", ["--picture", "/"], ["--picture", "folder that is there", "'/'"]),
    ("make_app", ["--bug", "KeyErorr"], ["--bug must be", "'KeyErorr'"]),
    ("make_app", ["--bug", "{}:five"], ["five", "must be an exception", "5"]),
    ("make_app", ["--check", "{}:nothing"], ["no attribute 'nothing'"]),
    ("no_app", [], ["must return an App", "got None"]),
    ("five", [], ["five", "got 5"]),
    ("capricious", [], ["isn't deterministic", "step", "beat at 60."]),
    ("threaded", [], ["a thread in work", "service.py:"]),
]


@pytest.mark.parametrize(("name", "args", "parts"), MISTAKES)
def test_a_mistake_is_one_line(
    name: str,
    args: list[str],
    parts: list[str],
    service: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """it names what is wrong and shows it, on stderr, with exit code 2."""
    answer = simulate(capsys, f"{service}:{name}", *(arg.format(service) for arg in args))
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("trio-modules: ")
    assert [part for part in parts if part not in line] == []


def test_an_exception_of_the_users_code_passes(service: Path) -> None:
    """a factory that fails is a bug of the program, not a mistake at the keyboard."""
    with pytest.raises(ValueError, match="the factory failed"):
        main(["simulate", f"{service}:failing"])


@pytest.mark.slow
@pytest.mark.process
async def test_many_processes_find_the_same(service: Path) -> None:
    """with several jobs it prints the same, mistakes included."""
    target = f"{service}:make_app"
    options = ("--seeds", "0:4", "--every", "20min", "--duration", "4h", "--no-shrink")
    one = await run_python(*CLI, "simulate", target, *options)
    two = await run_python(*CLI, "simulate", target, *options, "--jobs", "2")
    assert one == two
    assert (one.code, one.stderr) == (1, "")
    ended = await run_python(*CLI, "simulate", f"{service}:threaded", "--jobs", "2")
    assert (ended.code, ended.stdout) == (2, "")
    assert "a thread in work" in ended.stderr


def test_without_a_terminal_a_line_says_how_far_it_is(
    service: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """now and then, on stderr; here whenever a seed is done."""
    monkeypatch.setattr(_command, "_SILENCE", 0.0)
    answer = simulate(
        capsys, f"{service}:make_app", "--seeds", "0:2", "--duration", "10min", "--", "sound"
    )
    assert answer.code == 0
    assert re.fullmatch(r"1/2 seeds, \d+\.\d/s\n2/2 seeds, \d+\.\d/s\n", answer.err)


@pytest.mark.process
def test_a_bar_shows_how_far_it_is(service: Path) -> None:
    """on a terminal, and on stderr, so that the result can be piped."""
    terminal, other_end = pty.openpty()
    words = [sys.executable, *CLI, "simulate", f"{service}:make_app", "--seeds", "0:2"]
    ended = subprocess.run(
        [*words, "--duration", "10min", "--", "sound"],
        stdout=subprocess.PIPE,
        stderr=other_end,
        text=True,
        env=environment(),
        check=True,
    )
    os.close(other_end)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert ended.stdout.startswith("2 seeds, ")
    assert re.search(r"\[#{15} {15}\] 1/2 seeds, \d+\.\d/s", shown)
    assert re.search(r"\[#{30}\] 2/2 seeds, \d+\.\d/s \r?\n$", shown)
