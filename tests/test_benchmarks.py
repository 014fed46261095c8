"""The benchmarks run, say what they measured, notice what grew; how fast is no test's matter."""

from __future__ import annotations

import gc
import logging
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
import trio

from benchmarks import counts, endurance, page, picture, scaling, stopwatch
from benchmarks.__main__ import WORKS, parse, recorded, row
from benchmarks.measuring import Result, Work, measure
from benchmarks.peering import PEERS, Contestant, Peer, PeerFailed, Process, Team, team

if TYPE_CHECKING:
    from benchmarks.scaling import Curve

pytestmark = pytest.mark.slow

PEERS_FILES = Path(__file__).parents[1] / "benchmarks" / "peers"
SVG = "{http://www.w3.org/2000/svg}"


def small(work: Work) -> Work:
    """The same with a size that is soon done, once."""
    size = max(1, min(1_000, work.size // 10))
    floor_size = min(size, work.floor_size or size)
    known = {name: getattr(work, name) for name in Work.__dataclass_fields__}
    return Work(**known | {"size": size, "floor_size": floor_size, "items": 1, "repetitions": 1})


@pytest.mark.process
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_each_work_runs(work: Work) -> None:
    """Ours and the floor do the work, and both cost something."""
    result = measure(small(work))
    assert {name for name, [cost] in result.costs.items() if cost > 0} == {"ours", "floor"}
    assert work.name in row(result)


@pytest.mark.parametrize("curve", scaling.CURVES, ids=lambda curve: curve.name)
def test_each_curve_is_drawn(curve: Curve, capsys: pytest.CaptureFixture[str]) -> None:
    """The curve of few items has a cost of ours and of the floor, and a verdict."""
    drawn = scaling.drawn(curve, 100, items=1)
    assert drawn["sizes"] == [100]
    assert min(drawn["ours"] + drawn["floor"]) > 0
    assert ("collector off" in drawn) == (curve.unit != "B")
    assert "  flat" in capsys.readouterr().out


async def cost_two(_: int) -> float:
    return 2.0


async def cost_one(_: int) -> float:
    return 1.0


WORK = Work("work", 1.5, 20, cost_two, cost_one, unit="B", items=1, title="some work <here>")


def record_of(result: Result, peers: Team | None = None) -> dict[str, Any]:
    return recorded([result], peers or Team(), parse([]))


def test_a_missed_goal_is_said() -> None:
    """Ratio, goal and spread are in the row, and that the goal is missed."""
    assert row(measure(WORK)).split() == (
        ["work", "2.00", "B", "1.00", "B", "2.00", "1.50", "2.00", "-", "2.00", "missed"]
    )


class FakePeer(Contestant):
    """A peer that costs three times the floor, until it dies."""

    def __init__(self, name: str, *, lives: int) -> None:
        self.name = name
        self.version = "1.0"
        self.works: dict[str, int | None] = {"work": 10}
        self.lives = lives

    def cost(self, work: str, size: int, times: int) -> float:
        assert (work, size, times) == ("work", 10, 1)
        self.lives -= 1
        if self.lives < 0:
            raise PeerFailed("it died: no such thing")
        return 3.0


def test_the_plainest_code_takes_its_turn() -> None:
    """It is measured beside ours and the floor, in the same rounds, and as often."""
    costs = measure(replace(WORK, least=cost_two)).costs
    assert costs["least"] == [2.0] * WORK.repetitions
    assert list(costs) == ["ours", "floor", "least"]


def test_peers_take_turns_and_may_fail() -> None:
    """A peer that does fewer items is measured with those, and one that dies is named."""
    peers = Team([FakePeer("steady", lives=99), FakePeer("frail", lives=2)], {"gone": "no wheel"})
    result = measure(WORK, peers.who_can("work"))
    assert result.costs["steady"] == [3.0] * WORK.repetitions
    assert result.failed == {"frail": "it died: no such thing"}
    record = record_of(result, peers)
    table = page.results_table(record)
    assert "| **2.00** | 2.00 to 2.00 | 1.50 | steady 3 (of 10), frail failed: it died" in table
    assert "frail: it died" in row(result)
    assert page.missing_peers(record) == "- gone took no part: no wheel"
    assert peers.who_can("something else") == []


def test_the_picture_shows_what_the_record_says() -> None:
    """Each that took part is a dot whose tip is its ratio; words are escaped."""
    peers = Team([FakePeer("steady", lives=99)])
    drawn = picture.ratios_picture(record_of(measure(WORK, peers.contestants), peers))
    tips = [each.text for each in ET.fromstring(drawn).iter(f"{SVG}title")]
    assert tips[-2:] == ["steady: 3.00", "ours: 2.00"]
    assert "some work &lt;here&gt;" in drawn


def test_the_documentation_shows_the_results_that_are_kept() -> None:
    """Each work's row has the ratio that follows from its figures; the picture can be drawn."""
    results = page.load(page.RESULTS)
    table = page.results_table(results)
    for work in results["works"]:
        ours = picture.ratios(results, work)["ours"]
        assert re.search(rf"\| {re.escape(work['title'])} \|.*\| \*?\*?{ours:.2f}\*?\*? \|", table)
    assert ET.fromstring(picture.ratios_picture(results)).tag == f"{SVG}svg"


def test_the_documentation_shows_curves_and_whether_they_are_flat() -> None:
    """A curve has a panel in the picture, and a row that says by how much it grows."""
    curve = {"title": "modules", "unit": "µs", "sizes": [100, 1_000]}
    curve |= {"ours": [10.0, 20.0], "floor": [10.0, 9.0]}
    still = {"ours": [9.0, 8.0], "floor": [1.0, 3.0]}
    curves = [curve | {"least": [11.0, 33.0]}, curve | {"collector off": still}]
    record = {"curves": curves}
    table = page.scaling_table(record)
    assert table.count("| 10 20 | 2.00 | 10 9 | 1.00 |  |  | no |") == 1
    assert table.count("| 10 20 | 2.00 | 10 9 | 1.00 | 11 33 | 3.00 | no |") == 1
    assert table.count("modules, µs, collector off |") == 1
    assert "| 9 8 | 1.00 | 1 3 | 3.00 |  |  | yes |" in table
    drawn = ET.fromstring(picture.curves_picture(record))
    assert len(list(drawn.iter(f"{SVG}polyline"))) == 3 + 4


def test_the_documentation_shows_counts_for_each_python() -> None:
    """A path that was not counted for a version leaves its cell empty."""
    old = {"paths": {"spawn": {"ours": 3_000, "floor": 2_000}}}
    new = {"paths": {"queue": {"ours": 10, "floor": 40}}}
    rows = page.counts_table({"3.12": old, "3.13": new}).splitlines()
    assert rows[2:] == ["| spawn | 3,000 / 2,000 = 1.50 |  |", "| queue |  | 10 / 40 = 0.25 |"]


def test_growth_looks_at_smaller_sizes_only() -> None:
    """An item that gets cheaper with the number is flat."""
    assert page.growth([3.0, 2.0, 1.0]) == 1.0
    assert page.growth([3.0, 1.0, 2.0]) == 2.0


def test_an_unknown_benchmark_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no work has is said, before anything runs."""
    with pytest.raises(SystemExit):
        parse(["modules-100", "nonsense"])
    assert "no benchmark is called nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("collector", stopwatch.COLLECTORS)
def test_the_collector_is_as_asked_for(collector: str) -> None:
    """In a round it works, works without what was there before, or rests; after it, it works."""
    before = gc.get_freeze_count()  # Python 3.12 freezes some things itself
    with stopwatch.fair_round(collector):
        assert gc.isenabled() == (collector != "off")
        assert (gc.get_freeze_count() > before) == (collector != "on")
    assert gc.isenabled()
    assert gc.get_freeze_count() <= before


def test_counts_that_grew_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """More than 3 % is too much; a path that was not kept can't have grown."""
    now = {name: {"ours": ours, "floor": 100} for name, ours in (("a", 104), ("b", 103), ("c", 9))}
    kept = {name: {"ours": 100, "floor": 100} for name in ("a", "b")}
    assert counts.report(now, kept, "3.12") == ["a by 4.0 %"]
    assert counts.report(now, None, "3.12") == []
    assert "no counts are kept for Python 3.12" in capsys.readouterr().out


def test_counts_are_differences() -> None:
    """What few and many items have in common is no part of an item's count."""
    assert counts.per_item([11_000, 31_000, 5_000, 7_000]) == {"ours": 10, "floor": 1}


def test_a_dump_of_callgrind_is_read(tmp_path: Path) -> None:
    """The total is in a line of its own; a dump that is missing has none."""
    dump = tmp_path / "out.2"
    assert counts.total(dump) is None
    dump.write_text("desc: Trigger\nsummary: 12\n\ntotals: 12\n")
    assert counts.total(dump) == 12


@pytest.mark.parametrize("name", counts.PATHS)
def test_each_hot_path_runs(name: str) -> None:
    """What is counted can be done."""
    for side in counts.SIDES:
        assert trio.run(counts.PATHS[name][side], counts.SIZES[0]) > 0


def test_without_valgrind_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The error is one line that says what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["counts"])
    with pytest.raises(SystemExit) as caught:
        counts.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "valgrind is not installed: the instructions can't be counted\n"
    )


def test_growth_is_seen_behind_the_warm_up() -> None:
    """The second quarter is compared with the last; what comes before may be less."""
    assert endurance.growth([1, 2, 100, 100, 100, 100, 100, 100]) == 1.0
    assert endurance.growth([10, 20, 30, 40, 50, 60, 70, 80]) > 2


def test_under_load_all_hooks_see_events() -> None:
    """Samples have the events so far, the memory held and the objects known."""
    logging.disable()
    try:
        samples = trio.run(partial(endurance.sampled, 0.5, samples=2))
    finally:
        logging.disable(logging.NOTSET)
    assert 0 < samples[0].events < samples[1].events
    assert all(each.memory > 1_000_000 and each.objects > 1_000 for each in samples)


def process(code: str, *, seconds: float = 60) -> Process:
    return Process([sys.executable, "-c", code], seconds)


@pytest.mark.process
def test_a_peer_that_dies_says_why() -> None:
    """The last line that it wrote to stderr is the reason."""
    with pytest.raises(PeerFailed, match="it died: no such thing"):
        process("raise SystemExit('well\\nno such thing')").start()


@pytest.mark.process
def test_a_peer_that_takes_too_long_is_ended() -> None:
    """It fails, and is started again when it is asked for something else."""
    peer = process("print('{}', flush=True); input(); input()", seconds=2)
    peer.start()
    for _ in range(2):
        with pytest.raises(PeerFailed, match="it took more than 2 seconds"):
            peer.ask("work", 1, 1)


@pytest.mark.process
def test_asyncio_does_each_of_its_works(tmp_path: Path) -> None:
    """The peer that needs no environment answers with what the works cost."""
    with team(tmp_path, ["--wall", "--gc", "off"], PEERS[:1]) as peers:
        [asyncio] = peers.contestants
        for name in asyncio.works:
            assert asyncio.cost(name, 1_000, 1) > 0
    assert peers.missing == {}


@pytest.mark.process
@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_missing(tmp_path: Path) -> None:
    """What pip calls the error is the reason, and the others take part."""
    nobody = Peer("nobody", "nobody", ("!",))
    with team(tmp_path, [], [nobody, PEERS[0]]) as peers:
        assert [each.name for each in peers.contestants] == ["asyncio"]
    assert peers.missing is not None
    assert "!" in peers.missing["nobody"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_do_works_that_exist(peer: Peer) -> None:
    """A peer's name for a work is that of a benchmark, or of its kind."""
    text = (PEERS_FILES / f"{peer.file}.py").read_text(encoding="utf-8")
    works = re.findall(r'^    "([\w-]+)": PeerWork', text, re.MULTILINE)
    assert works
    assert set(works) <= {work.kind or work.name for work in WORKS}


def test_some_curves_alone_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """By their titles; one that no curve has is said, before anything runs."""
    assert scaling.parse(["hooks", "queued tasks"]).names == ["hooks", "queued tasks"]
    with pytest.raises(SystemExit):
        scaling.parse(["hooks", "nonsense"])
    assert "no curve is called nonsense" in capsys.readouterr().err
