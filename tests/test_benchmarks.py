"""Every scenario works, and the report is written; what is measured is nobody's to assert on a shared machine."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from benchmarks import __main__ as command
from benchmarks import report, statistics
from benchmarks.amounts import amount, plain
from benchmarks.results import Measured, Outcome, Results
from benchmarks.running import run
from benchmarks.sampling import Contender, Failed
from benchmarks.scenario import Comparison, Limit, Place, Scenario
from benchmarks.scenarios import ALL
from benchmarks.statistics import Estimate, Spread

HERE = Path(__file__).resolve().parent.parent

# --- the real thing ---------------------------------------------------------------------------------------------


@attrs.frozen
class Ran:
    """A run of the command that is over."""

    done: subprocess.CompletedProcess[str]
    out: Path


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All scenarios, a few samples each."""
    out = tmp_path_factory.mktemp("benchmarks")
    words = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(out / "copy.json"), "--out", str(out)]
    return Ran(subprocess.run(words, cwd=HERE, capture_output=True, text=True, stdin=subprocess.DEVNULL), out)


@pytest.mark.needs("root", "busybox")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [scenario.name for scenario in ALL])
def test_every_scenario_works(quick: Ran, name: str) -> None:
    outcome = next(outcome for outcome in Results.load(quick.out / "results.json").outcomes if outcome.name == name)
    assert not outcome.error
    assert {each.name: each.error for each in outcome.contenders if each.error} == {}
    assert outcome.measured
    for contender in outcome.contenders:
        assert bool(contender.rounds) != bool(contender.lacking), contender.name
        # What is a difference may be anything in so few samples.
        assert all(math.isfinite(sample) for samples in contender.rounds for sample in samples), contender.name


@pytest.mark.needs("root", "busybox")
@pytest.mark.timeout(600)
def test_a_run_writes_its_report(quick: Ran) -> None:
    assert quick.done.returncode == 0, quick.done.stdout + quick.done.stderr
    page = (quick.out / "report.md").read_text()
    assert "## Targets" in page
    for scenario in ALL:
        assert f"## {scenario.title}\n" in page
        assert f"]({scenario.name}.svg)" in page
        assert (quick.out / f"{scenario.name}.svg").read_text().startswith("<?xml")
        assert (quick.out / f"{scenario.name}.png").read_bytes().startswith(b"\x89PNG")
    assert (quick.out / "copy.json").read_text() == (quick.out / "results.json").read_text()
    machine = json.loads((quick.out / "results.json").read_text())["machine"]
    assert machine["kernel"].startswith("Linux") and machine["load"]["begin"] and machine["load"]["end"]
    assert str(HERE) not in json.dumps(machine)


@pytest.mark.needs("root", "busybox")
def test_the_floor_isolates_as_the_driver_does(tmp_path: Path, rootfs: Path) -> None:
    """Same namespaces private, same capabilities, filters, mounts: else the comparison would flatter one of the two."""
    from benchmarks import floor

    import execdrivers

    built = floor.build(tmp_path)
    script = (
        "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; ls -A /dev | sort; cut -d' ' -f5 /proc/self/mountinfo | sort;"
        "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done"
    )
    raw = subprocess.run([*built, "1", rootfs, "/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    ours = execdrivers.run(["/bin/sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True)
    floor_lines = raw.stdout.splitlines()[:-1]  # the last is the floor's time
    our_lines = ours.stdout.splitlines()
    assert [line for line in floor_lines if "[" not in line] == [line for line in our_lines if "[" not in line]
    host = {Path(f"/proc/self/ns/{name}").readlink() for name in ("pid", "mnt", "uts", "ipc", "net", "cgroup")}
    for lines in (floor_lines, our_lines):
        assert not {Path(line) for line in lines if "[" in line} & host


# --- the command ------------------------------------------------------------------------------------------------


def test_names_of_scenarios_and_contenders_are_unambiguous() -> None:
    names = [scenario.name for scenario in ALL]
    assert len(set(names)) == len(names)
    for scenario in ALL:
        figures = [wish.title for wish in (*scenario.comparisons, *scenario.limits)]
        assert len(set(figures)) == len(figures)


def test_a_full_run_takes_a_quarter_of_an_hour() -> None:
    assert sum(scenario.seconds for scenario in ALL) <= 15 * 60


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(scenario.name in listed for scenario in ALL)


def test_an_unknown_scenario_is_named_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command.main(["--scenarios", f"nonsense,{ALL[0].name}"]) == 2
    error = capsys.readouterr().err
    assert "no scenario nonsense;" in error and ALL[-1].name in error


def test_without_root_it_says_why_it_needs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main([]) == 1
    assert "run as root: the C floor makes" in capsys.readouterr().err


def test_a_report_is_made_anew_from_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "earlier.json").write_text(results(native=2.0).dumps())
    words = ["--from", str(tmp_path / "earlier.json"), "--out", str(tmp_path), "--json", "-"]
    assert command.main([*words, "--compare", str(tmp_path / "earlier.json")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["outcomes"][0]["figures"][0]["estimate"]["value"] == 2.0
    assert "2 of 2 figures agree" in captured.err
    assert {"report.md", "results.json", "trial.png", "trial.svg"} <= {entry.name for entry in tmp_path.iterdir()}


# --- running ----------------------------------------------------------------------------------------------------


def scenario(contenders: Callable[[Place], Sequence[Contender]]) -> Scenario:
    return Scenario(name="trial", title="A trial", about="Of the harness.", contenders=contenders, rounds=4)


def test_contenders_have_their_turns_in_rounds() -> None:
    turns: list[str] = []

    def contender(name: str) -> Contender:
        def measure(count: int) -> Sequence[float]:
            turns.append(name)
            return [1.0] * count

        return Contender(name=name, measure=measure, batch=3)

    outcome = run(scenario(lambda _: [contender("one"), contender("two")]))
    assert [each.rounds for each in outcome.contenders] == [[[1.0] * 3] * 4] * 2
    assert all({*turns[at : at + 2]} == {"one", "two"} for at in range(0, 10, 2))
    assert len(turns) == 10  # the first of each does not count


def test_who_fails_has_no_more_turns_and_the_others_go_on() -> None:
    def fails(count: int) -> Sequence[float]:
        raise Failed("no daemon answers")

    able = Contender(name="able", measure=lambda count: [1.0] * count)
    failing = Contender(name="failing", measure=fails)
    missing = Contender(name="missing", lacking="not installed; apt-get install it")
    outcome = run(scenario(lambda _: [able, failing, missing]))
    assert [(each.name, len(each.rounds), each.error) for each in outcome.contenders] == [
        ("able", 4, ""),
        ("failing", 0, "no daemon answers"),
        ("missing", 0, ""),
    ]
    assert outcome.failed


def test_who_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.patience.PATIENCE", 0.1)

    def hangs(count: int) -> Sequence[float]:
        subprocess.run(["sleep", "60"])
        return [60.0] * count

    outcome = run(scenario(lambda _: [Contender(name="hanging", measure=hangs)]))
    assert outcome.contenders[0].error == "no end after 0.1 seconds"


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_hangs_before_or_after_all_turns_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    monkeypatch.setattr("benchmarks.patience.PATIENCE", 0.1)
    cleared = []

    def contenders(place: Place) -> Sequence[Contender]:
        place.stack.callback(lambda: cleared.append(place.scratch))
        if when == "before":
            subprocess.run(["sleep", "60"])
        else:
            place.stack.callback(subprocess.run, ["sleep", "60"])
        return [Contender(name="quick", measure=lambda count: [1.0] * count)]

    outcome = run(scenario(contenders))
    assert outcome.error == "Late: no end after 0.1 seconds" and outcome.failed
    assert bool(outcome.contenders) == (when == "after")
    assert len(cleared) == 1 and not cleared[0].exists()
    assert "Late" in capsys.readouterr().err


def test_a_scenario_that_fails_is_cleared_up(capsys: pytest.CaptureFixture[str]) -> None:
    cleared = []

    def contenders(place: Place) -> Sequence[Contender]:
        assert place.scratch.is_dir()
        place.stack.callback(lambda: cleared.append(place.scratch))
        raise OSError("no space")

    outcome = run(scenario(contenders))
    assert outcome.error == "OSError: no space" and outcome.failed
    assert len(cleared) == 1 and not cleared[0].exists()
    assert "no space" in capsys.readouterr().err


def test_only_wanted_contenders_run() -> None:
    names = ("native", "C floor", "runc run", "native, 100 alive")
    able = [Contender(name=name, measure=lambda count: [1.0] * count) for name in names]
    outcome = run(scenario(lambda _: able), wanted=frozenset({"native", "floor"}))
    assert [each.name for each in outcome.contenders] == ["native", "C floor", "native, 100 alive"]


# --- results and the report -------------------------------------------------------------------------------------


def results(*, native: float, unit: str = "s", plot: str = "bars") -> Results:
    """Of one scenario with two contenders, one that failed and one that is missing."""
    outcome = Outcome(
        name="trial",
        title="A trial",
        about="Of the report.",
        unit=unit,  # type: ignore[arg-type]
        plot=plot,  # type: ignore[arg-type]
        x="containers alive",
        comparisons=[Comparison(title="native over the floor", of="native", over="C floor", target=1.5)],
        limits=[Limit(title="native", of="native", at_most=3)],
        contenders=[
            Measured(name="native", x=0, rounds=[[native] * 3] * 6),
            Measured(name="C floor", x=1, rounds=[[1.0, 1.0]] * 6),
            Measured(name="docker run", lacking="not installed; apt-get install docker.io"),
        ],
    )
    return Results(began="2026-01-02 03:04 UTC", machine={"cpus": 2, "kernel": "Linux 6"}, outcomes=[outcome])


def test_results_survive_json(tmp_path: Path) -> None:
    written = results(native=2.0)
    (tmp_path / "results.json").write_text(written.dumps())
    assert Results.load(tmp_path / "results.json") == written


def test_targets_are_judged() -> None:
    table = report.targets(results(native=2.0))
    assert "| trial | native over the floor | ≤ 1.5 | 2.00 (2.00 to 2.00) | **no** |" in table
    assert "| trial | native | ≤ 3 s | 2.00 s (2.00 s to 2.00 s) | yes |" in table
    straddling = attrs.evolve(results(native=1.0).outcomes[0].figures()[0], estimate=Estimate(1.4, 1.3, 1.6))
    assert straddling.met and not straddling.certain


def test_the_report_names_who_is_missing_and_who_failed() -> None:
    found = results(native=2.0)
    found.outcomes[0].contenders.append(Measured(name="bwrap", error="exit 1:\nno | way"))
    page = report.markdown(found, frozenset({"trial"}))
    assert "- **docker run** (trial): not installed; apt-get install docker.io" in page
    assert "| bwrap (failed: exit 1: no \\| way) |" in page
    assert "| **native** | 2.00 s | 2.00 s to 2.00 s | 1 | 18 |" in page
    assert "| C floor | 1.00 s | 1.00 s to 1.00 s | 0.500 (0.500 to 0.500) | 12 |" in page
    assert "![A trial](trial.svg)" in page


def test_a_quick_run_and_a_busy_machine_are_named() -> None:
    found = results(native=2.0)
    found.quick = True
    quiet = {"load_1min": 0.1, "used": 0.01}
    found.machine["load"] = {"begin": quiet, "end": {"load_1min": 2, "used": 0.9}, "stolen": 0.0, "busy": True}
    page = report.markdown(found, frozenset())
    assert "numbers are worth nothing" in page
    assert "**The machine was busy**: others used 1% of its processors before the run, 90% after it" in page


def test_two_runs_are_compared() -> None:
    text = report.compared(results(native=2.0), results(native=2.5))
    assert text.startswith("0 of 2 figures agree")
    assert "| trial | native over the floor | 2.50 (2.50 to 2.50) | 2.00 (2.00 to 2.00) | **no** |" in text


@pytest.mark.parametrize("plot", ["bars", "curves"])
@pytest.mark.parametrize("unit", ["s", "B", "B/s"])
@pytest.mark.parametrize("native", [1.1, 5000.0])
def test_plots_are_drawn(plot: str, unit: str, native: float, tmp_path: Path) -> None:
    from benchmarks import plots

    outcome = results(native=native, unit=unit, plot=plot).outcomes[0]
    assert plots.draw(outcome, tmp_path)
    first = (tmp_path / "trial.svg").read_bytes()
    assert (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")
    plots.draw(outcome, tmp_path)
    assert (tmp_path / "trial.svg").read_bytes() == first


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    from benchmarks import plots

    outcome = results(native=1.0).outcomes[0]
    outcome.contenders = outcome.contenders[2:]
    assert not plots.draw(outcome, tmp_path) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.0012345, "s", "1.23 ms"),
        (0.99996, "s", "1.00 s"),
        (0.0000009, "s", "900 ns"),
        (12_345, "s", "12,345 s"),
        (20 * 1024, "B", "20.0 KiB"),
        (0, "B", "0 bytes"),
        (2.5e9, "B/s", "2.50 GB/s"),
        (0.0456, "", "0.046"),
        (1.2, "", "1.20"),
    ],
)
def test_amounts(value: float, unit: str, words: str) -> None:
    assert amount(value, unit) == words


def test_plain_amounts() -> None:
    assert [plain(0.001, "s"), plain(20480, "B"), plain(1.25, ""), plain(100, ""), plain(1000, "")] == [
        "1 ms",
        "20 KiB",
        "1.25",
        "100",
        "1,000",
    ]


# --- statistics -------------------------------------------------------------------------------------------------


def test_spread_is_of_all_samples() -> None:
    assert statistics.spread([[1, 2], [3, 4, 5]]) == Spread(3, 2, 4, 5)
    assert statistics.spread([[7]]) == Spread(7, 7, 7, 1)


def test_one_round_has_no_interval() -> None:
    assert statistics.ratio([[4.0, 4.0]], [[2.0]]) == Estimate(2, 2, 2)


def test_a_ratio_over_nothing_is_infinite() -> None:
    assert statistics.ratio([[1.0], [1.0]], [[0.0], [0.0]]).value == math.inf


def test_intervals_that_touch_agree() -> None:
    assert Estimate(1, 0.9, 1.1).agrees(Estimate(1.2, 1.1, 1.3))
    assert not Estimate(1, 0.9, 1.1).agrees(Estimate(1.3, 1.2, 1.4))


def test_what_slows_a_round_of_both_is_no_part_of_their_ratio() -> None:
    slow = [1.0, 5.0, 2.0, 9.0, 4.0, 3.0]
    estimate = statistics.ratio([[2 * value] * 3 for value in slow], [[value] * 3 for value in slow])
    assert estimate == Estimate(2, 2, 2)


def rounds(count: int, seed: int) -> Iterator[tuple[list[list[float]], list[list[float]]]]:
    """Of two whose medians' ratio is 2: spells that hit both, processes that differ, samples with a long tail."""
    import numpy

    chance = numpy.random.default_rng(seed)
    while True:
        spells = numpy.exp(chance.normal(0, 0.1, (count, 1)))
        one, other = (
            spells * numpy.exp(chance.normal(0, 0.05, (count, 1)) + chance.exponential(0.1, (count, 8))) for _ in "ab"
        )
        yield (2 * one).tolist(), other.tolist()


@pytest.mark.parametrize("count", [5, 20])
def test_intervals_hold_as_often_as_they_say(count: int) -> None:
    """In 200 runs, always the same ones."""
    estimates = [statistics.ratio(*pair) for _, pair in zip(range(200), rounds(count, seed=1), strict=False)]
    assert sum(each.low <= 2 <= each.high for each in estimates) >= 186
