"""What was to be reached, judged on made-up runs; and how runs are shown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import NoReturn

import pytest
from shmsync_tools.bench import figures, plots, publish, results, tables
from shmsync_tools.bench.model import AbsentError, Metric
from shmsync_tools.bench.results import CaseResult, Outcome, Run
from shmsync_tools.bench.suites import SUITES

from .test_runner import run_of


def case(suite: str, name: str, metric: str, **values: float) -> CaseResult:
    """A case with one metric, of which ``handoff`` and others have one value each."""
    return of_labels(suite, name, metric, dict(values))


def of_labels(suite: str, name: str, metric: str, values: dict[str, float]) -> CaseResult:
    higher = metric == "rate"
    unit = {"rate": "/s", "cpu": "%", "p50": "us", "news": "us"}.get(metric, "ns")
    metrics = (Metric(metric, unit, "a metric", higher), Metric("share", "%", "a share", True))
    outcomes = {label: Outcome({metric: [value]}) for label, value in values.items()}
    return CaseResult(suite, name, f"{suite} {name}", next(iter(values)), metrics, outcomes)


def good_run() -> Run:
    """A run in which every aim is just met."""
    contended = of_labels(
        "contended", "4", "rate", {"mp.Lock": 100.0, figures.UNFAIR: 100.0, "handoff": 10.0}
    )
    contended.outcomes[figures.UNFAIR].values["share"] = [20.0]
    contended.outcomes["handoff"].values["share"] = [25.0]
    rates = {"mp.Semaphore": 100.0, "handoff": 500.0, "fastipc.NamedSemaphore": 500.0}
    # A futex's round trip of 800 ns and four calls of 50 ns: a million a second, of which 95 %.
    one_core = {"mp.Semaphore": 950_000.0, "handoff": 950_000.0, "C: futex": 1e9 / 800}
    semaphore = {"mp.Lock": 100.0, "handoff": 70.0, "Python: two calls": 100.0}
    return run_of(
        of_labels("uncontended", "lock", "ns", {"mp.Lock": 100.0, "handoff": 70.0}),
        of_labels("uncontended", "semaphore", "ns", semaphore),
        of_labels("uncontended", "event", "ns", {"mp.Event": 1000.0, "handoff": 100.0}),
        of_labels("pingpong", "two-cores", "rate", rates),
        of_labels("pingpong", "one-core", "rate", one_core),
        of_labels("handover", "lock", "p50", {"mp.Lock": 10.0, "handoff": 10.0}),
        contended,
        of_labels("waits", "any-64", "ns", {"eventfd, poll": 1000.0, "handoff": 200.0}),
        of_labels("death", "lock", "news", {"C: robust mutex": 100.0, "handoff": 200.0}),
        case("idle", "lock", "cpu", handoff=0.1),
        case("cost", "objects-10", "pair", handoff=100.0),
        case("cost", "objects-1000", "pair", handoff=110.0),
        case("cost", "objects-100000", "pair", handoff=120.0),
        case("cost", "objects-1000000", "pair", handoff=900.0),
        case("cost", "processes-1", "pair", handoff=100.0),
        case("cost", "processes-100", "pair", handoff=120.0),
    )


def test_every_aim_that_is_just_met_is_met() -> None:
    judged = figures.judge(good_run())
    assert [each.figure.aim for each in judged if each.met is not True] == []
    assert len(judged) == len(figures.FIGURES) == 15


def test_every_aim_can_be_missed() -> None:
    run = good_run()
    for each in run.cases:
        for label, outcome in each.outcomes.items():
            if not label.startswith("handoff") or each.name.endswith(("objects-10", "es-1")):
                continue
            for name, values in outcome.values.items():
                better = 1 / 1.05 if name in ("rate", "share") else 1.05
                outcome.values[name] = [value * better for value in values]
    assert [each.figure.aim for each in figures.judge(run) if each.met is not False] == []


def test_what_a_run_has_no_values_for_is_not_measured() -> None:
    judged = figures.judge(run_of())
    assert {each.met for each in judged} == {None}
    assert {each.answer for each in judged} == {"not measured"}


def test_a_cost_is_flat_only_if_both_ends_were_measured() -> None:
    run = run_of(
        case("cost", "objects-10", "pair", handoff=100.0),
        case("cost", "objects-10000", "pair", handoff=100.0),
    )
    assert figures.flat("objects", 10, 100_000)(run) is None
    assert figures.flat("objects", 10, 10_000)(run) == 1


def test_without_an_unfair_mutex_the_fair_one_is_judged() -> None:
    run = good_run()
    contended = run.case("contended", "4")
    assert contended is not None
    del contended.outcomes[figures.UNFAIR]
    assert figures.contended(run) == pytest.approx(0.1)
    assert figures.slowest_share(run) == 25


def test_the_tables_show_limits_and_answers() -> None:
    text = tables.figures_table(good_run())
    assert "<= 0.7 x" in text
    assert ">= 20 %" in text
    assert "yes" in text
    markdown = tables.markdown(good_run())
    assert "| lock: acquire, release | 70.0 ns | - | - | 100 ns | - |" in markdown
    assert "10.0/s (`fair=False`: 100/s)" in markdown
    assert "| ping-pong, two cores | 500/s | - | - | 100/s | 500/s (fastipc.NamedSemaphore) |" in (
        markdown
    )


# ---- pictures ----


def test_pictures_are_the_same_for_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is of the extra [bench]")
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for draw in (plots.ratios, plots.scaling):
        for path in (first, second):
            plots.write(draw(good_run()), path)
        assert first.read_bytes() == second.read_bytes()
        text = first.read_text()
        assert "a CPU" in text
        assert "handoff" in text
        assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_there_is_no_picture_of_nothing() -> None:
    assert plots.ratios(run_of()) is None
    assert plots.scaling(run_of()) is None


def test_without_matplotlib_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(AbsentError, match=r"pip install 'shmsync\[bench\]'"):
        plots.pyplot()
    lines = plots.as_text(good_run()).splitlines()
    assert lines[0] == "Lock: acquire and release, nobody there (time, mp.Lock = 1)"
    assert lines[1].startswith("handoff  ####")
    assert lines[1].endswith("0.700  70.0 ns")


# ---- the README ----


def test_the_tables_of_the_readme_are_replaced_and_nothing_else() -> None:
    readme = f"before\n{publish.COMMAND}\nold\ntables\n{publish.END}\nafter\n"
    expected = f"before\n{publish.COMMAND}\nnew \\1\n{publish.END}\nafter\n"
    assert publish.with_tables(readme, r"new \1") == expected
    assert publish.with_tables(expected, r"new \1") == expected
    with pytest.raises(ValueError, match="needs one"):
        publish.with_tables("no markers", "new")


def test_what_the_readme_shows_is_there_and_was_a_full_run() -> None:
    readme = (publish.ROOT / "README.md").read_text()
    for name in (plots.RATIOS, plots.SCALING):
        assert f"({publish.FOLDER}/{name})" in readme
        assert (publish.ROOT / publish.FOLDER / name).exists()
    value = json.loads((publish.ROOT / publish.RESULTS).read_text())
    run = results.from_json(value)
    assert run.mode == "full"
    assert list(run.suites) == list(SUITES)
