"""Traces as text: one kept in full, and what must be true of all."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from shmsync_tools.lab import trace
from shmsync_tools.lab.matrix import all_scenarios, scenario_of, usable_engines
from shmsync_tools.lab.scenario import Finding, Run, Verdict
from shmsync_tools.stage import Step

#: Remade with SHMSYNC_REWRITE=1 in the environment; then look at the difference.
KEPT = Path(__file__).with_name("F2.trace.txt")
KEPT_HANDOFF = KEPT.with_name("F2.handoff.trace.txt")
KEPT_ESYNC = KEPT.with_name("F8.esync.trace.txt")
README = Path(trace.__file__).with_name("README.md")

ON_A_STAGE = sorted(
    key
    for key, scenario in all_scenarios().items()
    if scenario.stage and key[1] in usable_engines()
)


def rendered(number: int, *, all_steps: bool = False) -> list[str]:
    run = scenario_of(number, "fsync").run("fsync")
    return trace.render(run, all_steps=all_steps).splitlines()


def step_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r" {0,3}\d+  ", line)]


@pytest.mark.parametrize(
    ("number", "name", "kept"),
    [(2, "fsync", KEPT), (2, "handoff", KEPT_HANDOFF), (8, "esync", KEPT_ESYNC)],
)
def test_the_trace_is_as_kept(number: int, name: str, kept: Path) -> None:
    text = trace.render(scenario_of(number, name).run(name)) + "\n"
    if os.environ.get("SHMSYNC_REWRITE"):
        kept.write_text(text)
    assert text == kept.read_text()


def test_the_readme_has_that_trace() -> None:
    told = re.search(r"--trace -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert told is not None
    assert told[1] == KEPT.read_text()


@pytest.mark.parametrize("key", ON_A_STAGE, ids=str)
def test_each_step_is_a_line_with_its_words_behind(key: tuple[int, str]) -> None:
    run = scenario_of(*key).run(key[1])
    lines = trace.render(run, all_steps=True).splitlines()
    heading = next(line for line in lines if line.startswith("step"))
    columns = {name: heading.index(f"  {name}") + 2 for name in run.threads}
    reader = trace.Reader(run)
    numbers = [int(line.split(maxsplit=1)[0]) for line in step_lines(lines)]
    for number, line in zip(numbers, step_lines(lines), strict=True):
        step = run.steps[number - 1]
        assert line[columns[step.thread] :].startswith(reader.step(step))
        words = "".join(reader.words(name, pair) for name, pair in step.words.items())
        assert line.replace(" ", "").endswith(words.replace(" ", ""))
    repeated = re.findall(r"\((\d+) more times the same (\d+)", "\n".join(lines))
    folded = sum(int(times) * int(length) for times, length in repeated)
    assert len(numbers) + folded == len(run.steps)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("key", ON_A_STAGE, ids=str)
def test_calls_notes_and_the_finding_are_there(key: tuple[int, str]) -> None:
    run = scenario_of(*key).run(key[1])
    text = trace.render(run)
    flat = " ".join(text.split())
    for note in run.notes:
        assert f"-- {' '.join(note.text.split())}" in flat
    for calls in run.threads.values():
        assert all(call in text for call in calls)
    for returned in run.returns:
        assert f"= {returned.text}" in text or not returned.text
    assert f"{run.finding.verdict.value}: {run.finding.seen} NT: {run.finding.nt}" in flat


def test_steps_that_touch_no_object_are_hidden_and_counted() -> None:
    shown, everything = rendered(4), rendered(4, all_steps=True)
    hidden = len(step_lines(everything)) - len(step_lines(shown))
    assert f"({hidden} steps that touch no object's words are hidden: --all-steps)" in shown
    assert not any("hidden" in line for line in everything)
    assert any("lock gate" in line for line in everything)
    assert not any("gate" in line or ".kind" in line for line in step_lines(shown))


def test_owners_have_names() -> None:
    text = "\n".join(rendered(4))
    for part in ("cas M: free -> B", "store M: B -> abandoned", "cas M: abandoned -> A"):
        assert part in text
    assert re.search(r"store M: A -> free +free +0$", text, re.MULTILINE)
    assert re.search(r"A x2 +1 +1$", "\n".join(rendered(3)), re.MULTILINE)


def test_rounds_that_repeat_are_printed_once() -> None:
    lines = rendered(14)
    assert len(step_lines(lines)) == 14
    assert any("(19 more times the same 14 lines, up to step 284)" in line for line in lines)


def test_a_refused_call_without_steps_shows() -> None:
    text = "\n".join(rendered(12))
    assert "wait_all(X, X, timeout=0):\n      = EINVAL" in text


def made_up(*steps: Step, **changes: object) -> Run:
    run = Run(
        1,
        "fsync",
        "made up",
        Finding(Verdict.OCCURS, "Seen.", "Nothing."),
        threads={"A": ("wait_any(M, S)",)},
        objects={"M": "mutex", "S": "semaphore"},
        before={"M": (0, 0), "S": (1, 4)},
        ended={"A": "done"},
        steps=steps,
        owners={65536: "A"},
    )
    return replace(run, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "word", "old", "now", "result", "told"),
    [
        ("load", "M.word0", 65536, 65536, 0, "load M: A"),
        ("load", "M.word1", 2, 2, 0, "load M count: 2"),
        ("load", "S.word1", 4, 4, 0, "load S maximum: 4"),
        ("cas", "S.word0", 1, 0, 1, "cas S: 1 -> 0"),
        ("cas", "M.word0", 65537, 65537, 0, "cas M fails: owner 0x10001"),
        ("swap", "S.word0", 1, 1, 1, "swap S: 1 -> 1"),
        ("store", "M.word0", 65536, 2**32 - 1, 0, "store M: A -> abandoned"),
        ("sleep", "M.word0", 2**64 - 1, 2**32 - 1, -22, "sleep refused: EINVAL, ..."),
        ("sleep", "M.word0", 65536, 0, -11, "no sleep: M is free, ..."),
        ("sleep", "M.word0", 65536, 65536, -110, "no sleep: too late, ..."),
        ("sleep", "M.word0", 65536, 65536, 0, "sleep while M is A, ..."),
        ("wake", "M.word0", 0, 0, 0, "wake M: nobody"),
        ("wake", "M.word0", 0, 0, 3, "wake M: 3"),
        ("timeout", "", 0, 0, 0, "the deadline"),
        ("relook", "", 0, 0, 0, "looks again"),
        ("kill", "", 0, 0, 0, "killed"),
        ("yield", "", 0, 0, 0, "pause"),
        ("trylock", "gate", 0, 1000, -130, "trylock gate: EOWNERDEAD"),
    ],
)
def test_steps_in_words(op: str, word: str, old: int, now: int, result: int, told: str) -> None:
    step = Step("A", 0, op, word, "", old, now, result, "", {"M": (0, 0), "S": (1, 4)})
    assert trace.Reader(made_up(step)).step(step) == told


@pytest.mark.parametrize(
    ("op", "word", "old", "now", "result", "told"),
    [
        ("or", "S.word0", 1, 1 | 1 << 61, 1, "or S: 1 -> 1 c"),
        ("cas", "M.word0", 0, 65536 << 32 | 1, 1, "cas M: free -> A x1"),
        ("store", "M.word0", 65536 << 32 | 1, 1 << 63, 0, "store M: A x1 -> abandoned"),
        ("sleep", "thread 0 word", 256, 256, 0, "sleep while A's wait is waiting"),
        ("sleep", "thread 0 word", 256, 257, -11, "no sleep: A's wait is served"),
        ("cas", "thread 0 word", 256, 256 | 0x7F, 1, "cas A's wait: waiting -> gone"),
        ("load", "thread 0 word", 0, 0, 0, "load A's wait: idle"),
        ("wake", "thread 0 word", 257, 257, 1, "wake A"),
        ("wake", "thread 0 word", 257, 257, 0, "wake A: awake"),
        ("load", "thread 5 word", 1, 1, 0, "load thread 5 word: 1"),
    ],
)
def test_steps_of_handoff_in_words(
    op: str, word: str, old: int, now: int, result: int, told: str
) -> None:
    step = Step("A", 0, op, word, "", old, now, result, "", {"M": (0, 0), "S": (1, 0)})
    reader = trace.Reader(made_up(step, engine="handoff"))
    assert reader.step(step) == told
    assert reader.is_shown(0) == (word != "thread 5 word")


@pytest.mark.parametrize(
    ("op", "word", "old", "now", "result", "told"),
    [
        ("load", "M.word0", 65536, 65536, 0, "load M owner: A"),
        ("store", "M.word1", 1, 0, 0, "store M count: 1 -> 0"),
        ("cas", "S.word1", 2, 1, 1, "cas S count: 2 -> 1"),
        ("cas", "S.word1", 0, 2**32 - 1, 1, "cas S count: 0 -> -1"),
        ("cas", "E.word1", 1, 1, 0, "cas E lock fails: 1"),
        ("swap", "E.word0", 0, 1, 1, "swap E slot: 0 -> 1"),
        ("read", "S.eventfd", 2, 1, 1, "read S fd: 2 -> 1"),
        ("read", "M.eventfd", 0, 0, 0, "read M fd fails: 0"),
        ("write", "M.eventfd", 0, 1, 1, "write M fd: 0 -> 1"),
        ("write", "S.eventfd", 2**64 - 2, 2**64 - 2, 0, "write S fd fails: 2^64-2"),
        ("poll", "M.eventfd", 1, 1, 1, "poll M fd: ready"),
        ("poll", "M.eventfd", 1, 0, 0, "poll M fd: not ready"),
        ("poll", "M.eventfd", 1, 0, -11, "poll M fd: sleeps"),
        ("poll", "M.eventfd", 2, 1, 1, "poll M fd, ...: 1 of 2 ready"),
        ("poll", "M.eventfd", 2, 0, -11, "poll M fd, ...: sleeps"),
        ("load", "S.word0", 4, 4, 0, "load S maximum: 4"),
    ],
)
def test_steps_of_esync_in_words(
    op: str, word: str, old: int, now: int, result: int, told: str
) -> None:
    objects = {"M": "mutex", "S": "semaphore", "E": "manual event"}
    words: dict[str, tuple[int, ...]] = {"M": (0, 0, 1), "S": (4, 1, 1), "E": (0, 0, 0)}
    step = Step("A", 0, op, word, "", old, now, result, "", words)
    reader = trace.Reader(made_up(step, engine="esync", objects=objects, before=words))
    assert reader.step(step) == told
    assert reader.is_shown(0) == (word != "S.word0")
    name, _, part = word.partition(".")
    at = ("word0", "word1", "eventfd").index(part)
    assert reader.found(0)[name][at] == (words[name][at] if op == "poll" else old)


@pytest.mark.parametrize(
    ("op", "text", "result", "call", "told"),
    [
        ("ioctl", "NT_EVENT_SET", 0, "E.set()", "set E"),
        ("ioctl", "NT_EVENT_PULSE", 0, "E.pulse()", "pulse E"),
        ("ioctl", "NT_MUTEX_UNLOCK", -1, "M.release()", "unlock E: EPERM"),
        ("wait", "NT_WAIT_ANY", 0, "wait_any(E)", "wait any E"),
        ("wait", "NT_WAIT_ANY", -11, "wait_any(E, S, timeout=t)", "wait any E, S: sleeps"),
        ("wait", "NT_WAIT_ALL", -110, "wait_all(E, S, timeout=0)", "wait all E, S: ETIMEDOUT"),
        ("wait", "NT_WAIT_ANY", 1, "signal_and_wait(S, E, alert=M)", "wait any E, M"),
    ],
)
def test_steps_of_ntsync_in_words(op: str, text: str, result: int, call: str, told: str) -> None:
    objects = {"M": "mutex", "S": "semaphore", "E": "manual event"}
    before: dict[str, tuple[int, ...]] = {"M": (0, 0), "S": (1, 4), "E": (0, 0)}
    step = Step("A", 0, op, "E.device", text, 0, 0, result, "", before | {"E": (1, 0)})
    run = made_up(step, engine="ntsync", objects=objects, before=before)
    reader = trace.Reader(replace(run, threads={"A": (call,)}))
    assert reader.step(step) == told
    assert reader.is_shown(0)
    assert reader.found(0) == before


def test_what_the_holder_of_the_gate_reads_is_hidden() -> None:
    def step(op: str, word: str, thread: str = "A") -> Step:
        return Step(thread, 0, op, word, "", 0, 0, 0, "", {"M": (0, 0), "S": (1, 0)})

    steps = [
        step("load", "S.word0"),
        step("lock", "gate"),
        step("load", "S.word0"),
        step("load", "S.word0", "B"),
        step("store", "S.word0"),
        step("unlock", "gate"),
        step("load", "S.word0"),
    ]
    reader = trace.Reader(made_up(*steps, engine="handoff"))
    shown = [reader.is_shown(number) for number in range(len(steps))]
    assert shown == [True, False, False, True, True, False, True]


def test_words_in_words() -> None:
    reader = trace.Reader(made_up())
    assert reader.words("S", (5, 4)) == "5/4"
    assert [reader.words("M", pair) for pair in ((0, 0), (0, 2), (65536, 0), (2**32 - 1, 1))] == [
        "free",
        "free x2",
        "A x0",
        "abandoned x1",
    ]
    handoff = trace.Reader(made_up(engine="handoff"))
    assert [handoff.words("S", (2, high << 28)) for high in (0, 2, 4, 6)] == [
        "2",
        "2 c",
        "2 q",
        "2 cq",
    ]
    assert [handoff.words("M", pair) for pair in ((0, 0), (2, 65536), (0, 8 << 28))] == [
        "free",
        "A x2",
        "abandoned",
    ]
    assert handoff.words("M", (0, 14 << 28)) == "abandoned cq"
    objects = {"M": "mutex", "S": "semaphore", "E": "manual event"}
    esync = trace.Reader(made_up(engine="esync", objects=objects))
    assert esync.words("S", (5, 2, 3)) == "2/5 (3)"
    assert esync.words("S", (5, 2**32 - 2, 0)) == "-2/5 (0)"
    assert [esync.words("E", words) for words in ((1, 0, 0), (0, 1, 2**64 - 2))] == [
        "1 (0)",
        "0 l (2^64-2)",
    ]
    assert [esync.words("M", words) for words in ((0, 0, 1), (65536, 2, 0))] == [
        "free (1)",
        "A x2 (0)",
    ]
    other = trace.Reader(made_up(engine="another"))
    assert other.words("M", (65536, 31)) == "10000.1f"


def test_a_run_without_a_stage_says_so() -> None:
    text = trace.render(Run(34, "fsync", "made up", Finding(Verdict.OCCURS, "Seen.", "Nothing.")))
    assert "leave no steps" in text
    assert text.endswith("occurs: Seen.\nNT: Nothing.")
