"""What a timeline shows, line by line: steps, calls and remarks; who sleeps meanwhile; who hangs.

Knows nothing of HTML; ``report`` draws it. Steps and words read as in ``trace``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shmsync_tools.lab.scenario import Run, Verdict
from shmsync_tools.lab.trace import Reader
from shmsync_tools.lab.words import words_of
from shmsync_tools.stage import Step, sleeps

#: The longest round of a loop that is looked for, and how many repeated steps are worth folding.
LAP_MAX, FOLD_MIN = 60, 15

Words = dict[str, tuple[int, ...]]
Lanes = tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """A line of the timeline. ``kind`` is one of

    * "step", "timeout", "relook", "kill": what was granted to a thread;
    * "call", "return": a thread begins a call, or has its answer;
    * "note": a remark of the script;
    * "forged": a word was changed past the engine;
    * "again": the steps that follow only repeat what was.
    """

    kind: str
    text: str
    #: Number of the thread, or -1 if it is about none.
    thread: int = -1
    #: Number of the step, from 1.
    number: int = 0
    #: Nothing that a reader looks for: folded until asked for.
    dull: bool = False
    #: The step did not get what it tried for.
    failed: bool = False
    place: str = ""
    #: How each thread's lane is drawn beside the line: "on", "asleep", "hangs" or "off".
    lanes: Lanes = ()
    #: Threads that this step wakes.
    woken: tuple[int, ...] = ()
    words: Words = field(default_factory=dict)
    #: Objects whose words this step changes.
    changed: frozenset[str] = frozenset()


def marks(run: Run) -> Iterator[Mark]:
    """The lines of a timeline, in order."""
    reader = Reader(run)
    looks, woken = _lanes_after(run), [woken for _, woken in _sleepers(run)]
    lap, again = circle(run.steps)
    called: set[tuple[str, int]] = set()
    before, lanes = run.before, tuple("on" for _ in run.threads)
    for i, step in enumerate(run.steps):
        yield from _between(run, i, lanes)
        if again and i == again.start:
            times = f"{len(again) // lap} times more" if len(again) >= 2 * lap else "once more"
            round_ = "step" if lap == 1 else f"{lap} steps"
            yield Mark("again", f"The same {round_}, {times}", lanes=lanes)
        yield from _forged(reader, before, i, lanes)
        if (step.thread, step.call) not in called and step.op != "kill":
            called.add((step.thread, step.call))
            text = run.threads[step.thread][step.call]
            yield Mark("call", text, list(run.threads).index(step.thread), lanes=lanes)
        before, lanes = step.words, looks[i]
        yield _step(reader, i, lanes, woken[i], i in again)
    yield from _between(run, len(run.steps), lanes)


def _step(reader: Reader, number: int, lanes: Lanes, woken: list[str], folded: bool) -> Mark:
    step = reader.run.steps[number]
    threads = list(reader.run.threads)
    found = reader.found(number)
    changed = {name for name, words in step.words.items() if words != found[name]}
    return Mark(
        step.op if step.op in ("timeout", "relook", "kill") else "step",
        reader.step(step) + (f" ({', '.join(woken)})" if woken else ""),
        threads.index(step.thread),
        number=number + 1,
        dull=folded or not (changed or reader.is_shown(number)),
        failed=(step.op in ("cas", "read", "write") and not step.result)
        or (step.op in ("sleep", "ioctl", "wait") and step.result < 0 and not sleeps(step))
        or (step.op == "poll" and step.now < step.old and step.result >= 0),
        place=step.place,
        lanes=lanes,
        woken=tuple(threads.index(name) for name in woken),
        words=step.words,
        changed=frozenset(changed),
    )


def _between(run: Run, number: int, lanes: Lanes) -> Iterator[Mark]:
    """What is said after so many steps: answers first, for they belong to the step before."""
    threads = list(run.threads)
    for answer in run.returns:
        if answer.after == number:
            yield Mark("return", answer.text or "done", threads.index(answer.thread), lanes=lanes)
    for note in run.notes:
        if note.before == number:
            yield Mark("note", note.text, lanes=lanes)


def _forged(reader: Reader, before: Words, number: int, lanes: Lanes) -> Iterator[Mark]:
    """Words that have changed between two steps, and so by none of them."""
    for name, words in reader.found(number).items():
        if words != before[name]:
            old, new = reader.words(name, before[name]), reader.words(name, words)
            yield Mark("forged", f"{name} is overwritten: {old} → {new}", lanes=lanes)


def circle(steps: Sequence[Step]) -> tuple[int, range]:
    """The longest stretch in which the same steps come over and over, with the same words: how many
    steps a round has, and which of the steps only repeat the first round."""
    seen = [
        (each.thread, each.op, each.word, each.old, each.now, each.result, each.words)
        for each in steps
    ]
    longest = (0, range(0))
    for lap in range(1, min(LAP_MAX, len(seen) // 2) + 1):
        start = lap
        for i in range(lap, len(seen) + 1):
            if i < len(seen) and seen[i] == seen[i - lap]:
                continue
            if i - start > max(len(longest[1]) + lap, FOLD_MIN):
                longest = (lap, range(start, i))
            start = i + 1
    return longest


# ---- sleeping and hanging ----


def _waits_for(call: str) -> tuple[str, list[str], list[str]]:
    """What a call is, the objects that it waits for, and its alert."""
    what, _, rest = call.partition("(")
    arguments = [each.strip() for each in rest.rstrip(")").split(",")]
    names = [each for each in arguments if "=" not in each]
    alert = [each.removeprefix("alert=") for each in arguments if each.startswith("alert=")]
    return what, names[1:] if what == "signal_and_wait" else names, alert


def _slept_on(run: Run, step: Step) -> tuple[str, ...]:
    """The words that a sleep is on: a wait for any sleeps on all its objects at once, and every
    wait on its alert too; the step itself names the first only."""
    what, names, alert = _waits_for(run.threads[step.thread][step.call])
    first, _, part = step.word.rpartition(".")
    if first not in names or part not in ("word0", "eventfd", "device"):
        return (step.word,)
    return tuple(f"{name}.{part}" for name in ([first] if what == "wait_all" else names) + alert)


def _sleepers(run: Run) -> Iterator[tuple[dict[str, tuple[str, ...]], list[str]]]:
    """After each step: who sleeps, on which words; and whom this step has woken."""
    asleep: dict[str, tuple[str, ...]] = {}
    for step in run.steps:
        asleep.pop(step.thread, None)
        woken: list[str] = []
        if sleeps(step):
            asleep[step.thread] = _slept_on(run, step)
        elif step.op == "wake" or (step.op == "write" and step.now > 0):
            woken = [name for name in run.threads if step.word in asleep.get(name, ())]
            woken = woken[: step.result] if step.op == "wake" else woken
            for name in woken:
                del asleep[name]
        yield dict(asleep), woken


def _could_go_on(run: Run, thread: str) -> bool:
    """Is there, at the end, what the sleeper waits for?"""
    call = [step.call for step in run.steps if step.thread == thread][-1]
    what, names, alert = _waits_for(run.threads[thread][call])
    meaning, words = words_of(run.engine, run.owners), run.steps[-1].words
    there = [
        meaning.is_signaled(run.objects[name], words[name])
        for name in names + ([] if what == "wait_all" else alert)
    ]
    return all(there) if what == "wait_all" else any(there)


def hanging(run: Run) -> set[str]:
    """Threads that sleep at the end and should not: what they wait for is there, or, where that is
    over, the finding says that they sleep."""
    if run.finding.verdict is not Verdict.OCCURS or not run.steps:
        return set()
    *_, (asleep, _) = _sleepers(run)
    names = {name for name in asleep if run.ended[name] == "sleeping"}
    beside = {name for name in names if _could_go_on(run, name)}
    said = run.finding.seen
    return beside or {
        name for name in names if re.search(rf"\b{re.escape(name)}\b[^.;:]* sleeps?\b", said)
    }


def _lanes_after(run: Run) -> list[Lanes]:
    """How the lanes look after each step."""
    hang = hanging(run)
    over = {name for name, state in run.ended.items() if state in ("done", "ended", "dead")}
    last = {step.thread: i for i, step in enumerate(run.steps)}

    def look(name: str, i: int, asleep: bool) -> str:
        ended = last.get(name, len(run.steps)) <= i
        if ended and name in over:
            return "off"
        if ended and name in hang:
            return "hangs"
        return "asleep" if asleep else "on"

    return [
        tuple(look(name, i, name in asleep) for name in run.threads)
        for i, (asleep, _) in enumerate(_sleepers(run))
    ]


def endings(run: Run) -> dict[str, str]:
    """How each thread has ended, in words."""
    hang = hanging(run)
    texts = {
        "done": "has returned",
        "ended": "has ended",
        "sleeping": "asleep",
        "blocked": "blocked",
        "ready": "still running",
        "dead": "dead",
    }
    return {
        name: "hangs: asleep for good" if name in hang else texts.get(state, state)
        for name, state in run.ended.items()
    }
