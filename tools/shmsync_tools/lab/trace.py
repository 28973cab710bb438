"""A run as text: one line a step, a column for each thread, the objects' words behind.

``README.md`` beside this file tells how to read one.
"""

from __future__ import annotations

import errno
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shmsync_tools.lab.scenario import Run
from shmsync_tools.lab.words import wait_word, words_of
from shmsync_tools.stage import ON_A_DEVICE, PARTS, Step, sleeps

Words = dict[str, tuple[int, ...]]

#: Operations that always change a word.
CHANGES = frozenset({"store", "swap", "or"})
#: What an object consists of.
OF_AN_OBJECT = ("word0", "word1", "eventfd")
#: What the low bits of an owner id are the number of.
SLOT_MASK = 0xFFFF
WAIT_WORD = re.compile(r"thread (\d+) word")
#: Remarks are not wrapped narrower than this, nor wider than that.
NARROWEST, WIDEST = 72, 100
GAP = "  "
#: Rows that come again at least so often are printed once.
REPEATS = 3
#: The longest sequence of rows that is looked for again.
REPEATED_MAX = 40


@dataclass(frozen=True)
class Row:
    """One line of the table. ``text`` stands in the column of ``thread``; a remark has no thread
    and goes over all columns."""

    thread: str | None
    text: str
    number: int | None = None
    words: Words | None = None

    def same(self, other: Row) -> bool:
        """Is it the same step again?"""
        return (self.thread, self.text, self.words) == (other.thread, other.text, other.words)


def render(run: Run, *, all_steps: bool = False) -> str:
    """The whole trace: heading, steps, what came of it, what was found, what NT does."""
    lines = [f"F{run.number} on {run.engine}: {run.title}", ""]
    if run.threads:
        lines += _Table(run, all_steps).lines()
    elif not run.steps:
        lines += ["(Shown with real threads or processes, which leave no steps.)"]
    return "\n".join([*lines, "", conclusion(run)])


def conclusion(run: Run) -> str:
    """What was found, and what NT does in the same situation."""
    found = f"{run.finding.verdict.value}: {run.finding.seen}"
    return "\n".join([*_wrapped(found, "", WIDEST), *_wrapped(f"NT: {run.finding.nt}", "", WIDEST)])


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


# ---- words and steps in readable form ----


class Reader:
    """Turns the numbers of a run into what they mean."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.meaning = words_of(run.engine, run.owners)
        self.threads = {owner & SLOT_MASK: name for owner, name in run.owners.items()}
        self._in_the_gate = frozenset(_in_the_gate(run.steps))

    def words(self, name: str, words: tuple[int, ...]) -> str:
        """An object's two words: "1", "2/4" of a semaphore, "A x2" of a mutex."""
        return self.meaning.text(self.run.objects[name], words)

    def found(self, number: int) -> Words:
        """The objects' words that a step has found."""
        step = self.run.steps[number]
        if step.op in ON_A_DEVICE:  # it may change any, and nobody else can
            return self.run.steps[number - 1].words if number else self.run.before
        words = dict(step.words)
        name, _, part = step.word.rpartition(".")
        if name in words and part in OF_AN_OBJECT and step.op not in ("wake", "poll"):
            words[name] = self.meaning.before(part, words[name], step.old)
        return words

    def is_shown(self, number: int) -> bool:
        """Does that step touch what an object consists of or what a thread sleeps on, or end
        something? What who holds the gate reads there, nobody else can change meanwhile."""
        step = self.run.steps[number]
        if step.op == "load" and self.meaning.quiet_in_the_gate and number in self._in_the_gate:
            return False
        name, _, part = step.word.rpartition(".")
        if name in self.run.objects:
            return self.meaning.is_state(self.run.objects[name], part)
        return not step.word or self._sleeper(step.word) is not None

    def step(self, step: Step) -> str:
        """What a step did, in a few words."""
        word = self._word(step.word)
        old, now = self._value(step, step.old), self._value(step, step.now)
        if step.op == "cas":
            return f"cas {word}: {old} -> {now}" if step.result else f"cas {word} fails: {now}"
        if step.op == "sleep":
            return _sleep(word, old, now, step.result) + (", ..." if self._more(step) else "")
        if step.op in CHANGES:
            return f"{step.op} {word}: {old} -> {now}"
        if step.op in PARTS:
            return self._on_a_descriptor(word, step)
        plain = {
            "load": f"load {word}: {now}",
            "wake": self._wake(step),
            "yield": "pause",
            "timeout": "the deadline",
            "relook": "looks again",
            "kill": "killed",
        }
        result = f": {errno.errorcode[-step.result]}" if step.result < 0 else ""
        return plain.get(step.op, f"{step.op} {word}{result}")

    def _on_a_descriptor(self, word: str, step: Step) -> str:
        if step.op == "poll":
            return _poll(word, step)
        if step.op in ON_A_DEVICE:
            return _asked(", ".join(self._waited_for(step)) if step.op == "wait" else word, step)
        old, now = self._value(step, step.old), self._value(step, step.now)
        return f"{step.op} {word}" + (f": {old} -> {now}" if step.result else f" fails: {now}")

    def _wake(self, step: Step) -> str:
        sleeper = self._sleeper(step.word)
        if sleeper is None:
            return f"wake {self._word(step.word)}: {step.result or 'nobody'}"
        return f"wake {sleeper}" + ("" if step.result else ": awake")

    def _more(self, step: Step) -> bool:
        """Does the thread sleep on other objects too? (The step names the first.)"""
        if step.word.rpartition(".")[0] not in self.run.objects:
            return False
        call = self.run.threads[step.thread][step.call]
        return len(self._waited_for(step)) > 1 if "wait_any(" in call else "alert=" in call

    def _waited_for(self, step: Step) -> list[str]:
        """The objects of the wait that a thread is in, and its alert."""
        call = self.run.threads[step.thread][step.call]
        names = re.findall(r"(?:alert=)?(\w+)", call.partition("(")[2])
        objects = [name for name in names if name in self.run.objects]
        return objects[1:] if call.startswith("signal_and_wait(") else objects

    def _sleeper(self, word: str) -> str | None:
        """The thread that sleeps on this word, if it is such a word."""
        match = WAIT_WORD.fullmatch(word)
        return self.threads.get(int(match[1])) if match else None

    def _word(self, word: str) -> str:
        name, _, part = word.rpartition(".")
        if name in self.run.objects:
            label = self.meaning.label(self.run.objects[name], part)
            return word if label is None else f"{name} {label}".rstrip()
        sleeper = self._sleeper(word)
        return f"{sleeper}'s wait" if sleeper else word

    def _value(self, step: Step, value: int) -> str:
        name, _, part = step.word.rpartition(".")
        if name in self.run.objects:
            return self.meaning.value(self.run.objects[name], part, value)
        return wait_word(value) if self._sleeper(step.word) else str(value)


def _in_the_gate(steps: Sequence[Step]) -> Iterator[int]:
    """The numbers of the steps that were taken by who held the gate."""
    holder = ""
    for number, step in enumerate(steps):
        if step.word == "gate" and step.op == "lock" and step.result in (0, -errno.EOWNERDEAD):
            holder = step.thread
        elif step.thread == holder and (step.word == "gate" or step.op == "kill"):
            holder = "" if step.op in ("unlock", "kill") else holder
        if step.thread == holder:
            yield number


def _asked(names: str, step: Step) -> str:
    """A call of the driver's, by the name that the source has for it: NT_EVENT_SET is "set"."""
    what = step.text.removeprefix("NT_").lower().split("_")
    call = " ".join(what if step.op == "wait" else what[1:])
    if sleeps(step):
        answer = ": sleeps"
    else:
        answer = f": {errno.errorcode[-step.result]}" if step.result < 0 else ""
    return f"{call} {names}{answer}"


def _poll(word: str, step: Step) -> str:
    """A look at so many counters (``step.old``), of which so many can be read (``step.now``)."""
    several = step.old > 1
    ready = f"{step.now} of {step.old} ready" if several else "ready" if step.now else "not ready"
    return f"poll {word}{', ...' * several}: {'sleeps' if step.result < 0 else ready}"


def _sleep(word: str, expected: str, found: str, result: int) -> str:
    if result == 0:
        return f"sleep while {word} is {expected}"
    if result == -errno.EAGAIN:
        return f"no sleep: {word} is {found}"
    if result == -errno.ETIMEDOUT:
        return "no sleep: too late"
    return f"sleep refused: {errno.errorcode.get(-result, str(result))}"


# ---- the table ----


class _Table:
    def __init__(self, run: Run, all_steps: bool) -> None:
        self.run = run
        self.reader = Reader(run)
        self.all_steps = all_steps
        self.hidden = 0
        self.rows = list(self._rows())
        self.widths = {name: self._width(name) for name in run.threads}
        self.word_widths = {name: self._word_width(name) for name in run.objects}
        columns = [*self.widths.values(), *self.word_widths.values()]
        self.total = 4 + sum(len(GAP) + width for width in columns)

    def lines(self) -> list[str]:
        """All of it."""
        lines = list(self._heading())
        rows = self.rows
        at = 0
        while at < len(rows):
            length, times = _repetition(rows, at)
            for row in rows[at : at + length]:
                lines += self._line(row)
            if times > 1:
                last = rows[at + length * times - 1].number
                lines_ = "1 line" if length == 1 else f"{length} lines"
                text = f"({times - 1} more times the same {lines_}, up to step {last})"
                lines += self._line(Row(None, text))
            at += length * times
        return [line.rstrip() for line in [*lines, *self._ending()]]

    # ---- its rows ----

    def _rows(self) -> Iterator[Row]:
        yield Row("", "", None, self.run.before)
        called: set[tuple[str, int]] = set()
        for number in range(len(self.run.steps) + 1):
            yield from (Row(None, f"-- {n.text}") for n in self.run.notes if n.before == number)
            if number == 0:
                yield from self._ends(0, called)
            if number == len(self.run.steps):
                break
            step = self.run.steps[number]
            shown = self.all_steps or self.reader.is_shown(number)
            self.hidden += not shown
            if shown:
                if step.op != "kill":
                    yield from self._begin(step.thread, step.call, called)
                yield Row(step.thread, self.reader.step(step), number + 1, step.words)
            yield from self._ends(number + 1, called)

    def _begin(self, thread: str, call: int, called: set[tuple[str, int]]) -> Iterator[Row]:
        """The call that a thread of several is in, before its first step."""
        calls = self.run.threads[thread]
        if len(calls) > 1 and call < len(calls) and (thread, call) not in called:
            called.add((thread, call))
            yield Row(thread, f"{calls[call]}:")

    def _ends(self, number: int, called: set[tuple[str, int]]) -> Iterator[Row]:
        for each in self.run.returns:
            if each.after == number:
                yield from self._begin(each.thread, each.call, called)
                if each.text:
                    yield Row(each.thread, f"= {each.text}")

    # ---- its lines ----

    def _width(self, thread: str) -> int:
        texts = [thread, *self.run.threads[thread]]
        texts += [row.text for row in self.rows if row.thread == thread]
        return max(map(len, texts))

    def _word_width(self, name: str) -> int:
        texts = [name, *self.run.objects[name].split()]
        texts += [self.reader.words(name, row.words[name]) for row in self.rows if row.words]
        return max(map(len, texts))

    def _columns(self, number: str, cells: dict[str, str], words: dict[str, str]) -> str:
        parts = [f"{number:>4}"]
        parts += [cells.get(name, "").ljust(width) for name, width in self.widths.items()]
        parts += [words.get(name, "").rjust(width) for name, width in self.word_widths.items()]
        return GAP.join(parts)

    def _heading(self) -> Iterator[str]:
        kinds = {name: kind.split() for name, kind in self.run.objects.items()}
        yield self._columns("step", {n: n for n in self.widths}, {n: n for n in kinds})
        calls = self.run.threads
        for i in range(max(*map(len, calls.values()), *map(len, kinds.values()))):
            yield self._columns(
                "",
                {name: each[i] for name, each in calls.items() if i < len(each)},
                {name: each[i] for name, each in kinds.items() if i < len(each)},
            )
        yield "-" * self.total

    def _line(self, row: Row) -> list[str]:
        if row.thread is None:
            return _wrapped(row.text, " " * 6, min(max(self.total, NARROWEST), WIDEST))
        words = {} if row.words is None else row.words
        readable = {name: self.reader.words(name, each) for name, each in words.items()}
        number = "" if row.number is None else str(row.number)
        return [self._columns(number, {row.thread: row.text}, readable)]

    def _ending(self) -> Iterator[str]:
        yield self._columns("end", self.run.ended, {})
        if self.hidden:
            yield ""
            yield f"({self.hidden} steps that touch no object's words are hidden: --all-steps)"


def _repetition(rows: list[Row], at: int) -> tuple[int, int]:
    """Length of the sequence of rows that comes again and again from here on, and how often it
    comes; (1, 1) if none does."""
    for length in range(1, REPEATED_MAX + 1):
        times = 1
        while _comes_again(rows, at, length, times):
            times += 1
        if times >= REPEATS:
            return length, times
    return 1, 1


def _comes_again(rows: list[Row], at: int, length: int, times: int) -> bool:
    end = at + length * (times + 1)
    return end <= len(rows) and all(
        rows[i].number is not None and rows[i].same(rows[i + length * times])
        for i in range(at, at + length)
    )
