"""The page of the failure lab: whole, alone, readable, and right in a real browser."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shmsync_tools.lab import matrix, report
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.matrix import scenario_of
from shmsync_tools.lab.report_timeline import circle, endings, hanging, marks
from shmsync_tools.lab.scenario import Finding, Run, Scenario, ScriptedStage, Verdict
from shmsync_tools.stage import SOME_TIME, State, clear, set_, unlock, wait

from ..support import browser as browsers

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[2]
#: As HTML has them: elements without an end.
VOID = {"meta", "link", "input", "br"}
WIDTHS = (320, 390, 600, 768, 1024, 1280, 1920)


# ---- runs to draw ----


def play(number: int, script: Callable[[ScriptedStage], Finding], engine: str = "fsync") -> Run:
    """Runs a script that is in no list of scenarios."""
    title = (script.__doc__ or "").strip()
    return Scenario(number, (engine,), title, script, True, None).run(engine)


def lost_wake_up(stage: ScriptedStage) -> Finding:
    """B sleeps beside a set event"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x))
    c = stage.thread("C", clear(y))
    stage.start()
    stage.say("A takes X, and is held before it tries Y")
    a.until("cas", y)
    stage.say("B sleeps")
    b.run()
    c.finish()
    a.run()
    seen = b.state is State.SLEEPING
    return Finding(Verdict.OCCURS if seen else Verdict.CANNOT_OCCUR, "X is set", "B has X")


def round_and_round(stage: ScriptedStage) -> Finding:
    """Two wait-alls in opposite order"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(y, x, all=True))
    stage.start()
    for _ in range(100):
        a.step()
        b.step()
    return Finding(Verdict.OCCURS, "The same steps for ever", "One gets both")


def deaths_and_deadlines(stage: ScriptedStage) -> Finding:
    """<script>alert("title")</script>"""
    x, m = stage.event("X & <b>Y</b>"), stage.mutex("M")
    threads = [stage.thread(f"waiter-{i}", wait(x, timeout=SOME_TIME)) for i in range(6)]
    setter = stage.thread("setter", wait(m), set_(x))
    owner = stage.thread("owner", unlock(m))
    stage.start()
    for thread in threads:
        thread.run()
    threads[0].time_out()
    threads[0].finish()
    stage.say("<i>note</i> with `code`")
    setter.until("wake")
    setter.step()
    threads[1].kill()
    owner.finish()
    return Finding(Verdict.NOT_REPRODUCED, "<u>seen</u>", 'nt "&amp;"')


def waits_and_is_served(stage: ScriptedStage) -> Finding:
    """B is served"""
    x = stage.event("X")
    a, b = stage.thread("A", set_(x)), stage.thread("B", wait(x))
    stage.start()
    for thread in (b, a, b):
        thread.run()
    return Finding(Verdict.OCCURS, "X is B's", "X is B's")


def sample_runs() -> list[Run]:
    """A few runs of every sort."""
    prevented = Finding(Verdict.PREVENTED, "`wait_all([x, x])` raises", "Refused")
    impossible = Finding(Verdict.CANNOT_OCCUR, "It has no such thing", "Neither")
    return [
        play(2, lost_wake_up),
        play(14, round_and_round),
        play(18, deaths_and_deadlines),
        Run(12, "fsync", "The same object twice", prevented),
        Run(21, "other", "Something else", impossible),
    ]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return sample_runs()


# ---- the page as text ----


class Page(HTMLParser):
    """What is on a page; fails at a tag that is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.labelled: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def test_the_page_is_well_formed_and_its_ids_are_unique(runs: list[Run]) -> None:
    page = Page(report.page(runs))
    assert page.tags["section"] == len(CATALOGUE) + 2
    assert page.tags["article"] == len(runs)
    assert page.tags["figure"] == sum(bool(run.steps) for run in runs)
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []


def test_every_link_and_label_leads_somewhere_on_the_page(runs: list[Run]) -> None:
    page = Page(report.page(runs))
    links = [value for value in page.values("href") if value != "data:,"]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(page.ids)
    assert {f"#f{run.number}-{run.engine}" for run in runs} <= set(links)
    assert {f"#f{number}" for number in CATALOGUE} <= set(links)
    assert set(page.values("for", "aria-labelledby")) <= set(page.ids)


def test_the_page_needs_nothing_from_elsewhere(runs: list[Run]) -> None:
    text = report.page(runs)
    page = Page(text)
    assert page.tags["script"] == page.tags["img"] == page.tags["iframe"] == 0
    assert page.values("src", "srcset", "action") == []
    assert not re.search(r"https?:|@import|url\(", text)


def test_texts_are_shown_as_they_are_and_never_as_tags(runs: list[Run]) -> None:
    text = report.page(runs)
    assert "<script" not in text
    shown = "".join(Page(text).texts)
    for each in (
        '<script>alert("title")</script>',
        "X & <b>Y</b>",
        "<i>note</i> with code",
        "<u>seen</u>",
        'nt "&amp;"',
    ):
        assert each in shown


def test_each_cell_says_its_verdict_and_only_what_was_run_has_one(runs: list[Run]) -> None:
    text = report.page(runs)
    cells = re.findall(r'<td class="(\w+)" data-engine="(\w+)">(.*?)</td>', text)
    assert len(cells) == 2 * len(CATALOGUE)
    found = Counter((look, engine) for look, engine, _ in cells)
    assert found["none", "fsync"] == len(CATALOGUE) - 4
    assert found["none", "other"] == len(CATALOGUE) - 1
    for run in runs:
        look, sign, _ = report.LOOKS[run.finding.verdict]
        cell = next(cell for _, _, cell in cells if f'#f{run.number}-{run.engine}"' in cell)
        assert sign in cell
        assert run.finding.verdict.value in cell
        assert found[look, run.engine]


def test_the_same_runs_give_the_same_page() -> None:
    code = (
        "import hashlib; from tests.lab.test_report import sample_runs;"
        "from shmsync_tools.lab import report;"
        "print(hashlib.sha256(report.page(sample_runs()).encode()).hexdigest())"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "123"
    }
    assert len(sums) == 1
    assert re.fullmatch(r"[0-9a-f]{64}\n", sums.pop())


def test_the_page_is_written_as_utf_8(runs: list[Run], tmp_path: Path) -> None:
    report.write(runs, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == report.page(runs).encode()


# ---- timelines ----


def test_a_timeline_tells_calls_steps_remarks_and_answers_in_order(runs: list[Run]) -> None:
    lines = list(marks(runs[0]))
    told = [(line.kind, line.thread, line.text) for line in lines if not line.dull]
    assert told[:2] == [
        ("note", -1, "A takes X, and is held before it tries Y"),
        ("call", 0, "wait_all(X, Y)"),
    ]
    assert [text for kind, thread, text in told if (kind, thread) == ("step", 0)] == [
        *("load X: 1", "load Y: 1") * 2,
        "cas X: 1 -> 0",
        "cas Y fails: 0",
        "store X: 0 -> 1",
        "load X: 1",
        "load Y: 0",
        "sleep while Y is 0",
    ]
    assert told[told.index(("call", 2, "Y.clear()")) + 2] == ("return", 2, "was 1")
    assert [line.number for line in lines if line.number] == list(range(1, len(runs[0].steps) + 1))


def test_folded_steps_touch_no_objects_state(runs: list[Run]) -> None:
    dull = [line for line in marks(runs[0]) if line.dull]
    assert len(dull) > 5
    assert not any(line.changed for line in dull)
    assert all(".kind" in line.text or "thread" in line.text for line in dull)


def test_words_are_marked_where_they_change(runs: list[Run]) -> None:
    changes = [(line.text, set(line.changed)) for line in marks(runs[0]) if line.changed]
    assert changes == [
        ("cas X: 1 -> 0", {"X"}),
        ("swap Y: 1 -> 0", {"Y"}),
        ("store X: 0 -> 1", {"X"}),
    ]


def test_a_thread_that_sleeps_beside_what_it_waits_for_hangs(runs: list[Run]) -> None:
    assert hanging(runs[0]) == {"B"}
    assert endings(runs[0]) == {
        "A": "asleep",
        "B": "hangs: asleep for good",
        "C": "has returned",
    }
    lines = list(marks(runs[0]))
    fell_asleep = next(line for line in lines if line.text == "sleep while X is 0")
    assert lines[lines.index(fell_asleep) - 1].lanes == ("on", "on", "on")
    assert fell_asleep.lanes == ("on", "hangs", "on")
    assert lines[-1].lanes == ("asleep", "hangs", "off")


def test_a_thread_hangs_too_if_the_finding_says_that_it_sleeps(runs: list[Run]) -> None:
    def said(seen: str, verdict: Verdict = Verdict.OCCURS) -> set[str]:
        finding = Finding(verdict, seen, "")
        steps = tuple(step for step in runs[0].steps if step.thread != "A")
        gone: dict[str, tuple[int, ...]] = dict.fromkeys(runs[0].objects, (0, 0))
        steps = (*steps[:-1], dataclasses.replace(steps[-1], words=gone))
        return hanging(dataclasses.replace(runs[0], finding=finding, steps=steps))

    assert said("C has returned, and B, which came first, sleeps on") == {"B"}
    assert said("C has returned. B waits. C sleeps") == set()
    assert said("B sleeps", Verdict.CANNOT_OCCUR) == set()


def test_wakes_deadlines_and_deaths_show_in_the_lanes(runs: list[Run]) -> None:
    run = runs[2]
    lines = list(marks(run))
    wake = next(line for line in lines if line.text.startswith("wake X"))
    assert wake.woken == (1, 2, 3, 4, 5)
    assert wake.text.endswith("(waiter-1, waiter-2, waiter-3, waiter-4, waiter-5)")
    at = lines.index(wake)
    assert set(lines[at - 1].lanes[1:6]) == {"asleep"}
    assert set(wake.lanes[1:6]) == {"on"}
    deadline = next(line for line in lines if line.kind == "timeout")
    assert (deadline.thread, deadline.lanes[0]) == (0, "on")
    assert lines[lines.index(deadline) - 1].lanes[0] == "asleep"
    death = next(line for line in lines if line.kind == "kill")
    assert (death.thread, death.lanes[1]) == (1, "off")
    assert endings(run)["waiter-1"] == "dead"


def test_a_wake_of_a_threads_own_word_wakes_it() -> None:
    run = play(18, waits_and_is_served, "handoff")
    lines = list(marks(run))
    wake = next(line for line in lines if line.text.startswith("wake"))
    assert (wake.text, wake.woken, wake.dull) == ("wake B (B)", (1,), False)
    assert lines[lines.index(wake) - 1].lanes[1] == "asleep"
    assert wake.lanes[1] == "on"
    assert {line.text for line in lines if "X" in line.changed and line.thread == 0} == {
        "or X: 0 q -> 0 cq",
        "store X: 0 cq -> 1 cq",
        "store X: 1 cq -> 0 cq",
        "store X: 0 cq -> 0",
    }
    assert hanging(run) == set()


def test_a_write_wakes_all_who_poll() -> None:
    run = scenario_of(28, "esync").run("esync")
    lines = list(marks(run))
    write = next(line for line in lines if line.text.startswith("write S"))
    assert write.text == "write S fd: 0 -> 1 (W1, W2, W3, W4, W5)"
    assert set(lines[lines.index(write) - 1].lanes[:5]) == {"asleep"}
    assert set(write.lanes[:5]) == {"on"}
    again = [line for line in lines[lines.index(write) :] if line.text.startswith("poll S")]
    assert [line.text for line in again] == ["poll S fd: ready"] + ["poll S fd: sleeps"] * 4
    assert not any(line.failed for line in again)


def test_words_that_no_step_has_changed_are_told(runs: list[Run]) -> None:
    steps = list(runs[0].steps)
    at = next(i for i, step in enumerate(steps) if step.op == "cas")
    forged = {**steps[at].words, "Y": (7, 0)}
    steps[at] = dataclasses.replace(steps[at], words=forged)
    steps = steps[: at + 1]
    lines = list(marks(dataclasses.replace(runs[0], steps=tuple(steps))))
    assert [line.text for line in lines if line.kind == "forged"] == ["Y is overwritten: 1 → 7"]
    assert next(line for line in lines if line.number == at + 1).changed == {"X"}
    assert [line for line in marks(runs[0]) if line.kind == "forged"] == []


def test_rounds_that_only_repeat_are_folded(runs: list[Run]) -> None:
    lap, again = circle(runs[1].steps)
    assert (lap, again) == (14, range(18, 200))
    lines = list(marks(runs[1]))
    assert [line.text for line in lines if line.kind == "again"] == [
        "The same 14 steps, 13 times more"
    ]
    assert {line.dull for line in lines if line.number > 18} == {True}
    assert circle(runs[0].steps) == (0, range(0))


# ---- in a browser ----


@pytest.fixture(scope="module")
def real_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about everything that can be run here."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    cells = matrix.fill(matrix.usable_engines())
    report.write([cell.run for cell in cells if cell.run], path)
    return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    reason = browsers.missing()
    if reason:
        pytest.skip(reason)
    with browsers.chromium(tmp_path) as browser:
        yield browser


#: What stands at the place that the address names: is it shown, is it in view, what has it?
LOOK = """
const target = document.getElementById(location.hash.slice(1));
const box = target.getBoundingClientRect();
const drawn = target.querySelector(".timeline ol, .plain");
return {
  id: target.id,
  shown: target.checkVisibility({visibilityProperty: true, opacityProperty: true}),
  inView: box.top >= -1 && box.top < innerHeight / 2 && box.height > 0,
  drawn: drawn !== null && drawn.checkVisibility() && drawn.getBoundingClientRect().height > 0,
};
"""


@pytest.mark.seconds(120)
def test_a_page_of_all_scenarios_is_small(real_page: Path) -> None:
    articles = Page(real_page.read_text()).tags["article"]
    assert articles >= len(CATALOGUE) - 1
    assert real_page.stat().st_size < 2_000_000 / len(CATALOGUE) * articles


@pytest.mark.seconds(240)
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_each_cell_leads_to_its_timeline(
    browser: Chrome, real_page: Path, width: int, height: int
) -> None:
    browsers.resize(browser, width, height)
    browser.get(real_page.as_uri())
    links = browser.find_elements("css selector", "td a")
    assert len(links) >= len(CATALOGUE) - 1
    wanted = browser.execute_script("return arguments[0].map(a => a.hash.slice(1))", links)
    for number, link in enumerate(links):
        if number % 10 == 0:  # as a hand does it, which takes the browser long
            link.click()
            found = browser.execute_script(LOOK)
        else:
            found = browser.execute_script(f"arguments[0].click(); {LOOK}", link)
        assert found == {
            "id": wanted[number],
            "shown": True,
            "inView": True,
            "drawn": True,
        }
    assert browsers.complaints(browser) == []


@pytest.mark.seconds(240)
def test_nothing_sticks_out_at_any_width(
    browser: Chrome, real_page: Path, runs: list[Run], tmp_path: Path
) -> None:
    many = [
        dataclasses.replace(run, engine=engine)
        for engine in ("fsync", "another", "yet-another", "handoff")
        for run in runs
        if run.engine == "fsync" and run.number % 3 == 0
    ]
    report.write(many, tmp_path / "samples.html")
    for page in (real_page, tmp_path / "samples.html"):
        browser.get(page.as_uri())
        for folded in (True, False):
            if not folded:
                browser.execute_script("document.getElementById('all').click()")
            # Laying out all steps of all runs takes a browser many seconds.
            for width in WIDTHS if folded else (min(WIDTHS), max(WIDTHS)):
                browsers.resize(browser, width, 900)
                measured = browser.execute_script(
                    "return [document.documentElement.scrollWidth, innerWidth]"
                )
                assert measured[0] <= measured[1] == width, (page.name, folded)
    assert browsers.complaints(browser) == []


@pytest.mark.seconds(120)
def test_folds_and_the_filter_answer_to_their_boxes(
    browser: Chrome, runs: list[Run], tmp_path: Path
) -> None:
    report.write(runs, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())

    def shown(selector: str) -> int:
        found = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
            ".length",
            selector,
        )
        return int(found)

    def click(selector: str) -> None:
        browser.execute_script("document.querySelector(arguments[0]).click()", selector)

    dull = {run.number: sum(line.dull for line in marks(run)) for run in runs}
    assert shown(".dull") == 0
    click("#f2-fsync-all")
    assert shown(".dull") == shown("#f2-fsync .dull") == dull[2] > 0
    click("#all")
    assert shown(".dull") == sum(dull.values())
    rows = shown("tbody tr:not(.chapter)")
    assert rows == len(CATALOGUE)
    click('[value="occurs"]')
    assert shown("td.occurs") == 0
    assert shown("tbody tr:not(.chapter)") == rows - 2
    assert shown("td.prevented") == 1
