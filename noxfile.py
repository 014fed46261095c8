from __future__ import annotations

import json
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "typecheck", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
SOAKED = [
    "tests/test_tasks_stateful.py",
    "tests/test_schedule.py",
    "tests/test_slots_stateful.py",
    "tests/test_events_stateful.py",
]
# A test that hangs fails after so many seconds, long after faulthandler has shown its stacks.
TIME_LIMIT = "--timeout=600"
PYTHONS = nox.project.python_versions(PYPROJECT)


def install_package(session: nox.Session, group: str) -> None:
    """Install the built package, as a user gets it, with one dependency group."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, group))


def compare_traces(session: nox.Session, *, days: str) -> None:
    """Simulate the syslog hub twice, with the trace of the oldest Python beside it."""
    path = Path(session.cache_dir) / f"hub-trace-{days}.txt"
    if session.python == PYTHONS[0]:
        path.unlink(missing_ok=True)
    session.run("python", "tests/hub/hub_trace.py", str(path), days)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the installed package; arguments after -- go to pytest.

    What takes long and has nothing to do with the interpreter is run on the newest alone. Without
    arguments the syslog hub is simulated, too: the trace is to be the same on each Python.
    """
    install_package(session, "tests")
    chosen = () if session.python == PYTHONS[-1] else ("-m", "not slow")
    session.run("pytest", "-n", "auto", TIME_LIMIT, *chosen, *session.posargs)
    if not session.posargs:
        compare_traces(session, days="2")


@nox.session
def soak(session: nox.Session) -> None:
    """Run 100,000 random services, then far more examples of each state machine.

    Arguments after -- go to the services, like ``--first 100000 --services 5000 --processes 1``.
    """
    install_package(session, "tests")
    with session.chdir("tests"):
        session.run("python", "-m", "services.soak", *session.posargs)
    unhurried = ("-o", "faulthandler_timeout=0")
    session.run("pytest", "-n", "auto", *unhurried, *SOAKED, env={"SOAK_EXAMPLES": "5000"})


@nox.session(python=PYTHONS)
def traces(session: nox.Session) -> None:
    """Simulate a week of the syslog hub twice: the trace is to be the same on each Python."""
    install_package(session, "tests")
    compare_traces(session, days="7")


@nox.session
def mutants(session: nox.Session) -> None:
    """Put faults into a copy of the package, one at a time: the random services have to find them.

    Arguments after -- go to it, like ``--seeds 500`` and words that are in the names of faults.
    """
    install_package(session, "tests")
    with session.chdir("tests"):
        session.run("python", "-m", "faulty.run", *session.posargs)


@nox.session
def mutmut(session: nox.Session) -> None:
    """Let mutmut change the rooms that hold the logic: the tests have to notice nine in ten."""
    install_package(session, "mutmut")
    session.run("mutmut", "run", *session.posargs, env={"SOAK_EXAMPLES": "40"})
    session.run("mutmut", "results")
    session.run("mutmut", "export-cicd-stats")
    stats = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    noticed = stats["killed"] + stats["timeout"]
    session.log(f"{noticed} of {stats['total']} mutants are noticed")
    if noticed < 0.9 * stats["total"]:
        session.error("too few")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests once and demand the branch coverage that pyproject.toml names.

    What takes long by its nature has limits of real time, which a traced program can't keep.
    """
    install_package(session, "tests")
    session.run("coverage", "erase")
    options = ("-n", "auto", "-m", "not slow", TIME_LIMIT)
    session.run("coverage", "run", "-m", "pytest", *options, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style and the format."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of package, tests, examples and benchmarks."""
    install_package(session, "typecheck")
    session.run("mypy", *session.posargs)
    session.run("mypy", "tests/hub/conftest.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install_package(session, "docs")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")


def output(session: nox.Session) -> tuple[list[str], list[str]]:
    """Return where figures go, and the other arguments: with --keep they are the repository's."""
    others = [each for each in session.posargs if each != "--keep"]
    directory = "benchmarks" if len(others) < len(session.posargs) else session.create_tmp()
    return ["--output", directory], others


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the package beside raw Trio and its peers; arguments after -- name benchmarks.

    ``--quick``, ``--wall``, ``--dev`` and ``--gc`` say how, and ``--keep`` has the figures
    replace those that the documentation shows.
    """
    install_package(session, "bench")
    peers = Path(session.virtualenv.location) / "peers"
    where, others = output(session)
    session.run("python", "-m", "benchmarks", "--peers", str(peers), *where, *others)


@nox.session(name="bench-scaling")
def bench_scaling(session: nox.Session) -> None:
    """Measure what an item costs from 100 to 1,000,000; ``--keep`` is as for bench."""
    install_package(session, "bench")
    where, others = output(session)
    session.run("python", "-m", "benchmarks.scaling", *where, *others)


@nox.session(name="bench-counts")
def bench_counts(session: nox.Session) -> None:
    """Count the instructions of the hot paths, and name what grew; ``--keep`` keeps the counts."""
    install_package(session, "bench")
    session.run("python", "-m", "benchmarks.counts", *session.posargs)


@nox.session
def endurance(session: nox.Session) -> None:
    """Run under a full load of events for ten minutes, or ``--minutes``: memory must not grow."""
    install_package(session, "bench")
    session.run("python", "-m", "benchmarks.endurance", *session.posargs)
