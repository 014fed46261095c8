"""Every example of the README and the documentation, executed in the order of its page.

- A ``python`` block runs in its page's namespace, where ``await`` is allowed, on a mock clock. What
  it prints is shown in a ``text`` block that follows it directly; without one it prints nothing.
- A block of any language whose first line is a comment with a file's name is that file instead.
- A ``console`` block holds commands, each after ``$``, with what they print below; ``...`` stands
  for anything, and ``^C`` for the signal, sent when all above it was printed.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from support import deterministic_scheduling
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|//|;) (\S+\.\w+)\n")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
# Languages of blocks that a reader doesn't run, or that follow a block that is run.
NOT_RUN = {"text", "sh", "mermaid"}
SECONDS_FOR_A_COMMAND = 60
SEED = 1


@attrs.frozen
class Block:
    """A fenced block: its language, its text, and the output that is shown after it."""

    language: str
    text: str
    output: str
    line: int

    @property
    def file_name(self) -> str | None:
        """The file that the block's first line says it is."""
        match = FILE_NAME.match(self.text)
        return match.group(1) if match else None


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page, each with the output that follows it directly."""
    matches = list(FENCE.finditer(page))
    blocks = []
    for index, match in enumerate(matches):
        following = matches[index + 1] if index + 1 < len(matches) else None
        has_output = (
            following is not None
            and following.group(1) == "text"
            and not page[match.end() : following.start()].strip()
        )
        output = following.group(2) if following is not None and has_output else ""
        line = page.count("\n", 0, match.start()) + 1
        blocks.append(Block(match.group(1), match.group(2), output, line))
    return blocks


def execute(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """Run a python block in its page's namespace, on a mock clock; return what it printed."""
    source = "\n" * block.line + block.text
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:

            async def run() -> None:
                await eval(code, namespace)

            with deterministic_scheduling(SEED):
                trio.run(run, clock=MockClock(autojump_threshold=0))
        else:
            exec(code, namespace)
    return printed.getvalue()


def pattern_of(expected: str) -> re.Pattern[str]:
    """Return what matches a shown output: ``...`` is anything, alone in a line any lines."""
    pattern = re.escape(expected)
    pattern = re.sub(r"^\\\.\\\.\\\.\\\n", r"(?:.*\n)*?", pattern, flags=re.MULTILINE)
    return re.compile(pattern.replace(r"\.\.\.", r"[\s\S]*?"))


def environment() -> dict[str, str]:
    """Return this process's environment with our own interpreter's commands first."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def command_line(command: str) -> str:
    """Return the command as this interpreter runs it, whether or not scripts are installed."""
    return re.sub(r"^(trio-modules|pytest)\b", run_as_module, command)


def run_as_module(match: re.Match[str]) -> str:
    pytest_options = "-p no:cacheprovider -p pytest_trio_modules"
    module = {"trio-modules": "trio_modules", "pytest": f"pytest {pytest_options}"}[match.group(1)]
    return f"{sys.executable} -m {module}"


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", command_line(command)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], expected: re.Pattern[str]) -> str:
    """Read the lines of a process until they are what is expected, or it ends."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if expected.fullmatch(printed):
            break
    return printed


def run_command(command: str, expected: str, folder: Path) -> None:
    """Run one command of a console block and compare what it prints."""
    until_interrupt, interrupted, after = expected.partition("^C\n")
    with start(command, folder) as process:
        try:
            if interrupted:
                printed = read_until(process, pattern_of(until_interrupt))
                assert pattern_of(until_interrupt).fullmatch(printed), printed
                process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=SECONDS_FOR_A_COMMAND)
        finally:
            process.kill()
    wanted = after if interrupted else expected
    assert pattern_of(wanted).fullmatch(rest), f"{command}\n{rest}"


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that is shown below it."""
    parts = COMMAND.split(text)
    assert not parts[0].strip(), "a console block begins with a command"
    yield from zip(parts[1::2], parts[2::2], strict=True)


def run_block(block: Block, page: Path, folder: Path, namespace: dict[str, object]) -> None:
    """Do with a block what its language asks for."""
    where = f"{page.name}:{block.line}"
    if block.file_name is not None:
        (folder / block.file_name).write_text(block.text)
    elif block.language == "python":
        printed = execute(block, page, namespace)
        assert pattern_of(block.output).fullmatch(printed), f"{where} printed:\n{printed}"
    elif block.language == "console":
        for command, output in commands_of(block.text):
            run_command(command, output, folder)
    else:
        assert block.language in NOT_RUN, f"{where}: what is a {block.language!r} block?"


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_examples_of_a_page_do_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """every example of the page runs and prints what the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page.read_text()):
        run_block(block, page, tmp_path, namespace)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            monkeypatch.delitem(sys.modules, name)


def test_the_readme_begins_with_an_example() -> None:
    """the first block of the README is a program, the second shows it running."""
    first, second = blocks_of((ROOT / "README.md").read_text())[:2]
    assert (first.language, first.file_name) == ("python", "clock.py")
    assert second.text.startswith("$ trio-modules run clock.py:app\n")


def test_links_of_the_readme_lead_somewhere() -> None:
    """every file that the README links to is there."""
    links = re.findall(r"\]\(([\w./-]+\.\w+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_whole_check_begins_with_the_command_of_the_readme() -> None:
    """the command for the tests in the README is the one that the whole check runs."""
    commands = [block.text for block in blocks_of((ROOT / "README.md").read_text())]
    assert [text for text in commands if "nox -s tests" in text and text in check_script()]


def check_script() -> str:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    return "".join(f"{line.strip()}\n" for line in lines)


def test_an_example_with_a_wrong_output_fails(tmp_path: Path) -> None:
    """an example that prints something else than the page shows is found."""
    page = "```python\nprint(1)\n```\n\n```text\n2\n```\n"
    with pytest.raises(AssertionError, match="printed"):
        run_block(blocks_of(page)[0], Path("page.md"), tmp_path, {})


def test_an_example_that_should_print_nothing_and_does_fails(tmp_path: Path) -> None:
    """an example that prints although the page shows no output is found."""
    page = "```python\nprint(1)\n```\nsome prose\n```text\n1\n```\n"
    with pytest.raises(AssertionError, match="printed"):
        run_block(blocks_of(page)[0], Path("page.md"), tmp_path, {})


def test_a_command_with_a_wrong_output_fails(tmp_path: Path) -> None:
    """a command that prints something else than the page shows is found."""
    page = textwrap.dedent("""\
        ```console
        $ echo one \\
            two
        one two
        $ echo three
        four
        ```
        """)
    with pytest.raises(AssertionError, match="three"):
        run_block(blocks_of(page)[0], Path("page.md"), tmp_path, {})


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("took ... s\n", "took 0.5 s\n", True),
        ("took ... s\n", "took 0.5 h\n", False),
        ("a\n...\nb\n", "a\nb\n", True),
        ("a\n...\nb\n", "a\nx\ny\nb\n", True),
        ("a\n...\nb\n", "a\nx\n", False),
    ],
)
def test_dots_stand_for_anything(shown: str, printed: str, same: bool) -> None:
    """``...`` matches any text, alone in a line any lines or none, and nothing else does."""
    assert bool(pattern_of(shown).fullmatch(printed)) is same


def test_a_block_of_an_unknown_language_fails(tmp_path: Path) -> None:
    """a block in a language that nobody executes is found."""
    with pytest.raises(AssertionError, match="pyton"):
        run_block(blocks_of("```pyton\nprint(1)\n```\n")[0], Path("page.md"), tmp_path, {})
