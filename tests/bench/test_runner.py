"""The runner: turns, statistics, noise, who is absent, fails or hangs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from shmsync_tools.bench import measure, results, runner, tables
from shmsync_tools.bench.model import AbsentError, Case, HangError, Metric, Setup, Suite, Turn
from shmsync_tools.bench.results import CaseResult, Outcome, Run
from shmsync_tools.bench.worker import Conversation

from .conftest import TINY, MakeSetup

TIME = Metric("ns", "ns", "time")
RATE = Metric("rate", "/s", "rate", higher=True)


def suite_of(*cases: Case) -> Suite:
    return Suite("fake", "Fakes", "Nothing is measured.", lambda setup: list(cases))


def case_of(turns: Mapping[str, Turn], base: str | None = "base", name: str = "case") -> Case:
    return Case(name, "a title", (TIME,), turns, base)


def giving(*values: float) -> Turn:
    """A turn that gives one value after the other."""
    left = list(values)
    return lambda: {"ns": left.pop(0)}


def run_rounds(setup: Setup, rounds: int, *cases: Case) -> list[CaseResult]:
    sizes = replace(TINY, rounds=rounds)
    return runner.run_suite(replace(setup, sizes=sizes), suite_of(*cases), runner.quiet)


# ---- turns ----


def test_every_contestant_of_every_case_has_a_turn_in_every_round(setup: MakeSetup) -> None:
    order: list[str] = []

    def turn(label: str) -> Turn:
        def run() -> dict[str, float]:
            order.append(label)
            return {"ns": 1.0}

        return run

    first = case_of({"a": turn("1a"), "b": turn("1b")}, name="first")
    second = case_of({"a": turn("2a")}, name="second")
    run_rounds(setup(), 3, first, second)
    assert order == ["1a", "1b", "2a"] * 3


def test_progress_is_told_before_every_turn(setup: MakeSetup) -> None:
    told: list[tuple[str, int, int, str, str]] = []
    sizes = replace(TINY, rounds=2)
    suite = suite_of(case_of({"base": giving(1, 2)}))
    runner.run_suite(setup(sizes=sizes), suite, lambda *where: told.append(where))
    assert told == [("fake", 1, 2, "case", "base"), ("fake", 2, 2, "case", "base")]


def test_progress_on_a_terminal_is_one_line_that_is_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner.on_terminal("fake", 1, 2, "case", "base")
    runner.clear_line()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\r")[1].rstrip() == "fake: round 1 of 2: case: base"
    assert err.split("\r")[2].strip() == ""
    assert "\n" not in err


def test_who_is_absent_is_said_to_be_and_asked_once(setup: MakeSetup) -> None:
    asked: list[int] = []

    def turn() -> dict[str, float]:
        asked.append(1)
        raise AbsentError("absent; pip install it")

    (case,) = run_rounds(setup(), 3, case_of({"base": giving(1, 2, 3), "gone": turn}))
    assert len(asked) == 1
    assert case.outcomes["gone"].absent == "absent; pip install it"
    assert "gone: absent; pip install it" in tables.case_table(case)


def test_who_fails_keeps_what_he_had_and_the_others_go_on(setup: MakeSetup) -> None:
    (case,) = run_rounds(setup(), 3, case_of({"weak": giving(5), "base": giving(1, 2, 3)}))
    weak = case.outcomes["weak"]
    assert weak.values == {"ns": [5]}
    assert weak.failed == "fails (IndexError: pop from empty list)"
    assert case.outcomes["base"].values == {"ns": [1, 2, 3]}
    assert "later it fails" in tables.case_table(case)


def hang(me: Conversation) -> None:
    """A task that never ends."""
    me.say(os.getpid())
    me.hear()


def test_who_hangs_is_killed_and_the_run_goes_on(setup: MakeSetup) -> None:
    made = setup()
    pids: list[int] = []

    def turn() -> dict[str, float]:
        (worker,) = made.pool.workers(1)
        worker.start(hang)
        pids.append(worker.hear(TINY.patience))
        worker.result(0.01)
        raise AssertionError("it ended")

    def after() -> dict[str, float]:
        (worker,) = made.pool.workers(1)
        assert worker.pid not in pids
        return {"ns": worker.call(double, 21, seconds=TINY.patience)}

    (case,) = run_rounds(made, 2, case_of({"stuck": turn, "base": after}))
    assert len(pids) == 1
    assert case.outcomes["stuck"].failed == "hangs: nothing for 0.01 s"
    assert case.outcomes["base"].values == {"ns": [42, 42]}
    assert not os.path.exists(f"/proc/{pids[0]}")


def spin(me: Conversation) -> None:
    """A task that never sleeps."""
    me.say()
    while True:
        pass


def test_who_should_sleep_and_does_not_is_said_not_to(
    setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "ASLEEP_SECONDS", 0.1)
    pool = setup().pool
    spinning, sleeping = pool.workers(2)
    spinning.start(spin)
    spinning.hear(TINY.patience)
    with pytest.raises(HangError, match=r"does not sleep within 0\.1 s"):
        measure.wait_until_asleep(spinning.pid)
    sleeping.start(hang)
    sleeping.hear(TINY.patience)
    monkeypatch.undo()
    measure.wait_until_asleep(sleeping.pid)
    assert measure.is_asleep(sleeping.pid)


def double(me: Conversation, number: int) -> int:
    """A task that gives something."""
    return 2 * number


def fail(me: Conversation) -> None:
    """A task that fails."""
    raise ValueError("no such thing")


def end(me: Conversation) -> None:
    """A task that takes its process with it."""
    os._exit(7)


@pytest.mark.parametrize(
    ("task", "said"),
    [(fail, "fails (TaskError: ValueError: no such thing)"), (end, "the process ended, 7")],
)
def test_what_a_task_dies_of_is_said(
    setup: MakeSetup, task: Callable[[Conversation], None], said: str
) -> None:
    made = setup()

    def turn() -> dict[str, float]:
        return {"ns": made.pool.workers(1)[0].call(task, seconds=TINY.patience)}

    (case,) = run_rounds(made, 1, case_of({"base": turn}))
    assert said in (case.outcomes["base"].failed or "")


# ---- statistics ----


def result_of(
    ratios_to: str | None = "base", metric: Metric = TIME, **values: list[float]
) -> CaseResult:
    outcomes = {label: Outcome({metric.name: each}) for label, each in values.items()}
    return CaseResult("fake", "case", "a title", ratios_to, (metric,), outcomes)


def test_median_minimum_spread_and_ratio() -> None:
    case = result_of(base=[10, 30, 20], other=[40, 30, 50])
    other = case.outcomes["other"]
    assert (other.median("ns"), other.minimum("ns"), other.spread("ns")) == (40, 30, 0.5)
    assert case.ratio("other") == 2
    assert case.ratio("base") == 1
    assert case.ratio("nobody") is None


def test_a_base_that_was_not_measured_is_replaced_by_the_first_that_was() -> None:
    case = result_of(absent=[], first=[4], second=[8])
    case.base = "absent"
    case.outcomes["absent"].values.clear()
    assert case.measured_base == "first"
    assert case.ratio("second") == 2


def test_without_a_base_there_are_no_ratios_and_no_noise() -> None:
    case = result_of(None, other=[1, 100])
    assert (case.measured_base, case.ratio("other"), case.noisy) == (None, None, False)
    assert "ratio" not in tables.case_table(case)


@pytest.mark.parametrize(("values", "noisy"), [([100, 110, 120], False), ([100, 110, 140], True)])
def test_a_case_whose_base_swung_is_flagged(values: list[float], noisy: bool) -> None:
    case = result_of(base=values, other=[1, 1000])
    assert case.noisy is noisy
    assert ("NOISY" in tables.case_table(case)) is noisy


def run_of(*cases: CaseResult) -> Run:
    """A run with these cases."""
    machine = {
        "cpu": "a CPU",
        "virtual": True,
        "cores_allowed": 2,
        "cores_online": 4,
        "governor": None,
        "kernel": "Linux 6.0",
        "c_library": "glibc 2.36",
        "python": "CPython 3.11",
        "fast_path": True,
        "load": 0.1,
        "load_after": 1.0,
    }
    suites = {case.suite: {"title": "A suite", "note": "A note."} for case in cases}
    return Run("2026-01-02T03:04:05+00:00", "full", 5, 600.0, machine, {}, suites, list(cases))


def test_a_run_says_which_cases_are_noisy() -> None:
    calm, loud = result_of(base=[100, 101]), result_of(base=[100, 200])
    assert "no base swung" in tables.text(run_of(calm))
    assert "NOISY: in 1 of 2 cases" in tables.text(run_of(calm, loud))


def test_json_and_back() -> None:
    run = run_of(result_of(base=[1.5, 2.5], other=[]), result_of("slow", RATE, slow=[7.0]))
    run.cases[0].outcomes["other"] = Outcome(absent="gone", note="a note")
    raw = json.loads(json.dumps(results.to_json(run)))
    assert results.from_json(raw) == run
    summary = raw["cases"][0]["outcomes"]["base"]["summary"]["ns"]
    assert summary == {"min": 1.5, "median": 2.0, "spread": 0.5, "ratio": 1.0}


@pytest.mark.parametrize("value", [[], {}, {"format": 0}])
def test_what_is_no_run_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not what `shmsync bench run --json`"):
        results.from_json(value)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (7.123, "ns", "7.12 ns"),
        (1234, "ns", "1.23 us"),
        (176_000, "us", "176 ms"),
        (2_500_000, "us", "2.50 s"),
        (12_345.6, "/s", "12,300/s"),
        (0.0312, "%", "0.0312 %"),
        (0, "%", "0 %"),
        (None, "ns", ""),
    ],
)
def test_quantities_are_written_with_three_digits(
    value: float | None, unit: str, said: str
) -> None:
    assert tables.quantity(value, unit) == said
