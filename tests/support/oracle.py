"""The language of tests/data/wine-oracle.jsonl: calls of the Windows API, translated to any
``World``.

A scenario is a list of steps and the answers that a real wineserver gave. A step reads like C, and
may start with the letter of the thread that makes the call:

    "A: WaitForMultipleObjects(2, {s,m}, ANY, INFINITE)"   ->  "(blocked)"
    "ReleaseSemaphore(s,1,&prev)"                          ->  "TRUE prev=0"
    "A?"                                                   ->  "WAIT_OBJECT_0+0"

The interpreter turns each step into calls of a world (an engine, or the model), and what the world
says into the words of the oracle. It knows no answers; it passes the expected one on only so that a
world knows what to wait for, time being no part of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from ..model import Result

Kind = Literal["semaphore", "mutex", "event"]
MAIN: Final = ""  # the letter of the thread that runs a scenario
BLOCKED: Final = "(blocked)"

#: A call that failed, by what was wrong: in Win32's and in NT's words.
WIN32 = {
    "argument": "INVALID_PARAMETER(87)",
    "handle": "INVALID_HANDLE(6)",
    "kind": "INVALID_HANDLE(6)",
    "limit": "TOO_MANY_POSTS(298)",
    "missing": "FILE_NOT_FOUND(2)",
    "owner": "NOT_OWNER(288)",
}
NT = {
    "argument": "INVALID_PARAMETER(0xC000000D)",
    "count": "INVALID_PARAMETER_1(0xC00000EF)",
    "duplicate": "INVALID_PARAMETER_MIX(0xC0000030)",
    "exists": "OBJECT_NAME_COLLISION(0xC0000035)",
    "handle": "INVALID_HANDLE(0xC0000008)",
    "kind": "OBJECT_TYPE_MISMATCH(0xC0000024)",
    "limit": "SEMAPHORE_LIMIT_EXCEEDED(0xC0000047)",
    "missing": "OBJECT_NAME_NOT_FOUND(0xC0000034)",
    "owner": "MUTANT_NOT_OWNED(0xC0000046)",
}


class CallError(Exception):
    """A call was refused; ``args[0]`` is a key of ``NT``."""


@dataclass(frozen=True)
class Create:
    """What to create or open."""

    kind: Kind
    name: str | None = None
    initial: int = 0  # tokens; or 1: owned, signaled
    maximum: int = 0
    manual: bool = False
    create: bool = True
    exclusive: bool = False


@dataclass(frozen=True)
class Waiting:
    """What to wait for. ``signal``: signaled first."""

    variables: tuple[str, ...]
    all: bool = False
    timeout_ms: int | None = None
    alertable: bool = False
    signal: str | None = None


@dataclass(frozen=True)
class State:
    """An object as a thread sees it."""

    kind: Literal["semaphore", "mutex", "manual", "auto"]
    count: int
    maximum: int = 0
    mine: bool = False
    abandoned: bool = False


class World(Protocol):
    """Objects under variable names, threads under letters. Calls raise ``CallError``."""

    def create(self, letter: str, variable: str, what: Create) -> bool:
        """Makes the variable; was the object created?"""

    def duplicate(self, letter: str, variable: str, of: str) -> None:
        """A second handle to the same object."""

    def close(self, letter: str, variable: str) -> None:
        """Closes a handle."""

    def state(self, letter: str, variable: str, expected: Callable[[State], bool]) -> State:
        """The object's state, once it is as expected, or what it stays at."""

    def release(self, letter: str, variable: str, n: int) -> int:
        """Releases a semaphore: the count before."""

    def unlock(self, letter: str, variable: str) -> int:
        """Releases a mutex: the recursion count before."""

    def change(self, letter: str, variable: str, how: Literal["set", "reset", "pulse"]) -> bool:
        """Changes an event: was it set before?"""

    def wait(self, letter: str, what: Waiting) -> None:
        """Starts a wait."""

    def outcome(self, letter: str, expect_blocked: bool) -> Result | Literal["(blocked)"] | None:
        """How the letter's wait ended or that it has not; None: its time was up."""

    def alert(self, letter: str) -> None:
        """Alerts the letter's present or next alertable wait."""

    def end(self, letter: str, how: Literal["return", "exit", "kill"]) -> None:
        """Ends a thread, or its whole process."""


def split_arguments(text: str) -> list[str]:
    """The arguments of a call: commas inside brackets do not count."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def number(text: str) -> int:
    """A C number, or a BOOL."""
    words = {"TRUE": 1, "FALSE": 0}
    return words[text] if text in words else int(text, 0)


def milliseconds(text: str) -> int | None:
    """A time limit: INFINITE, or milliseconds, or NT's relative 100 ns."""
    if text == "INFINITE":
        return None
    if relative := re.fullmatch(r"rel\((-?\d+)\)", text):
        return -int(relative[1]) // 10_000
    return int(text)


def object_name(text: str) -> tuple[str, int]:
    """The name in ``nm("x")`` or ``oa(nm("x"),flags)``, and the flags."""
    found = re.fullmatch(r'(?:oa\()?nm\("(\w+)"\)(?:,(\w+)\))?', text)
    assert found, text
    return found[1], int(found[2] or "0", 0)


class Interpreter:
    """Runs the steps of one scenario in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.arrays: dict[str, list[str]] = {}
        self.finish: dict[str, Callable[[Result | None], str]] = {}  # letter -> words of its wait
        self.apcs: dict[str, list[int]] = {}  # letter -> numbers of the APCs queued to it
        self.apcs_run: list[int] = []
        self.expected: tuple[str, ...] = ()
        self.letter = MAIN

    def run(self, step: str, expected: tuple[str, ...]) -> str:
        """The world's answer to a step. ``expected``: any of these would do."""
        self.expected = expected
        found = re.fullmatch(r"(?:([A-Z]): ?)?(.*)", step)
        assert found
        self.letter = found[1] or MAIN
        text = found[2]
        if asked := re.fullmatch(r"([A-Z])\?", text):
            return self.outcome(asked[1])
        if several := re.fullmatch(r"(.*) x3 back to back", text):
            return self.back_to_back([several[1]] * 3)
        if ";" in text:
            return self.back_to_back(text.removesuffix(" back to back").split(";"))
        return self.statement(text) if "(" in text or "{" in text else self.prose(text)

    def prose(self, text: str) -> str:
        """Steps that are no calls."""
        match text:
            case "thread returns":
                self.world.end(self.letter, "return")
                return "exited"
            case "process returns":
                self.world.end(self.letter, "exit")
                return "exit code 0"
            case "APCs run so far":
                return "[" + ", ".join(map(str, self.apcs_run)) + "]"
        assert text in self.expected, f"not a step: {text}"
        return text  # the steps before it have seen to it

    def back_to_back(self, calls: Sequence[str]) -> str:
        """Several calls, nothing looked at in between."""
        for call in calls:
            self.statement(call)
        return "ok"

    def statement(self, text: str) -> str:
        """``variable = call`` or ``call``."""
        found = re.fullmatch(r"(?:(\w+) = )?(\w*)[({](.*)[)}]", text)
        assert found, f"not a step: {text}"
        variable, function, arguments = found[1], found[2], split_arguments(found[3])
        if not function:  # an array of handles, as a hidden step defines it
            self.arrays[variable] = arguments
            return ""
        if variable is not None:
            return self.create(variable, function, arguments)
        if function.startswith("Nt"):
            return self.nt_call(function, arguments)
        return self.win32_call(function, arguments)

    # ---- creating and opening ----

    def create(self, variable: str, function: str, arguments: list[str]) -> str:
        """SEMC(...), CreateSemaphoreW(...), OpenSemaphoreW(...) and so on."""
        opens = function.startswith("Open")
        try:
            created = self.world.create(self.letter, variable, described(function, arguments))
        except CallError as error:
            return "NULL err=" + WIN32[error.args[0]]
        if opens:
            return "handle err=untouched"
        return "handle err=SUCCESS(0)" if created else "handle err=ALREADY_EXISTS(183)"

    def nt_create(self, function: str, arguments: list[str]) -> str:
        """NtCreateEvent(&a,access,oa(name,flags),...), NtOpenEvent(&a,access,oa(name,flags))."""
        variable, what = arguments[0].lstrip("&"), nt_described(function, arguments[2:])
        try:
            created = self.world.create(self.letter, variable, what)
        except CallError as error:
            return NT[error.args[0]] + " no-handle"
        success = created or not what.create
        return ("SUCCESS(0)" if success else "OBJECT_NAME_EXISTS(0x40000000)") + " handle"

    # ---- calls ----

    def nt_call(self, function: str, arguments: list[str]) -> str:
        """The functions of ntdll."""
        if function.startswith(("NtCreate", "NtOpen")):
            return self.nt_create(function, arguments)
        if "Wait" in function:
            return self.nt_wait(function, arguments)
        wants_prev = arguments[-1] == "&prev"
        try:
            before = self.changed(function.removeprefix("Nt"), arguments)
        except CallError as error:
            return NT[error.args[0]] + (" prev=untouched" if wants_prev else "")
        return "SUCCESS(0)" + (f" prev={before}" if wants_prev else "")

    def win32_call(self, function: str, arguments: list[str]) -> str:
        """The functions of kernel32, and query()."""
        if "Wait" in function or function == "SleepEx":
            return self.win32_wait(function, arguments)
        if function == "query":
            return self.query(arguments[0])
        if function in ("ReleaseSemaphore", "ReleaseMutex", "SetEvent", "ResetEvent", "PulseEvent"):
            return self.win32_change(function, arguments)
        match function:
            case "QueueUserAPC":
                self.queue_apc(*arguments)
                return "1"
            case "TerminateThread":
                self.world.end(arguments[0], "kill")
                return "exited"
            case "TerminateProcess":
                self.world.end(arguments[0].upper(), "kill")
            case "CloseHandle":
                self.world.close(self.letter, arguments[0])
            case "DuplicateHandle":
                self.world.duplicate(self.letter, arguments[3].lstrip("&"), arguments[1])
            case _:
                raise AssertionError(f"no such call: {function}")
        return "TRUE"

    def win32_change(self, function: str, arguments: list[str]) -> str:
        """Only ReleaseSemaphore tells the state before, and only if asked."""
        untouched = " prev=untouched" if function == "ReleaseSemaphore" else ""
        try:
            before = self.changed(function, arguments)
        except CallError as error:
            return f"FALSE err={WIN32[error.args[0]]}" + untouched
        return "TRUE" + (f" prev={before}" if arguments[-1] == "&prev" else untouched)

    def changed(self, function: str, arguments: list[str]) -> int:
        """Makes a call that changes one object: the state before, as NT puts it."""
        variable = arguments[0]
        match function:
            case "ReleaseSemaphore":
                return self.world.release(self.letter, variable, number(arguments[1]))
            case "ReleaseMutex" | "ReleaseMutant":
                return 1 - self.world.unlock(self.letter, variable)
            case "SetEvent":
                return int(self.world.change(self.letter, variable, "set"))
            case "ResetEvent" | "ClearEvent":
                return int(self.world.change(self.letter, variable, "reset"))
            case "PulseEvent":
                return int(self.world.change(self.letter, variable, "pulse"))
        raise AssertionError(f"no such call: {function}")

    def query(self, variable: str) -> str:
        """An object's state in the oracle's words."""

        def words(state: State) -> str:
            match state.kind:
                case "semaphore":
                    return f"count={state.count} max={state.maximum}"
                case "mutex":
                    mine, abandoned = int(state.mine), int(state.abandoned)
                    return f"count={1 - state.count} owned_by_caller={mine} abandoned={abandoned}"
                case kind:
                    return f"type={kind} state={state.count}"

        return words(self.world.state(self.letter, variable, lambda s: words(s) in self.expected))

    def queue_apc(self, letter: str, apc: str = "1") -> None:
        """An APC is an alert with a number."""
        letter = MAIN if letter == "main" else letter
        self.apcs.setdefault(letter, []).append(int(apc))
        self.world.alert(letter)

    # ---- waits ----

    def handles(self, count: str, text: str) -> tuple[str, ...]:
        """The variables in ``{a,b}``, or the first ones of an array."""
        if text.startswith("{"):
            return tuple(split_arguments(text[1:-1]))
        return tuple(self.arrays.get(text, [])[: number(count)])

    def win32_wait(self, function: str, arguments: list[str]) -> str:
        """Words: WAIT_OBJECT_0+i, WAIT_ABANDONED_0+i, WAIT_TIMEOUT, WAIT_IO_COMPLETION,
        WAIT_FAILED."""
        what = self.waiting(function, arguments)

        def words(result: Result | None) -> str:
            if result is None:
                return "WAIT_TIMEOUT"
            if result.alerted:
                return "WAIT_IO_COMPLETION"
            return ("WAIT_ABANDONED_0+" if result.abandoned else "WAIT_OBJECT_0+") + str(
                result.index
            )

        try:
            return self.wait(what, words)
        except CallError as error:
            return "WAIT_FAILED err=" + WIN32[error.args[0]]

    def nt_wait(self, function: str, arguments: list[str]) -> str:
        """Words: the status codes' names."""
        what = self.waiting(function, arguments)

        def words(result: Result | None) -> str:
            assert result is None or result == Result(0), "the oracle has no other here"
            return "TIMEOUT(0x102)" if result is None else "SUCCESS(0)"

        try:
            return self.wait(what, words)
        except CallError as error:
            code = error.args[0]
            if code == "argument":
                code = "duplicate" if 1 <= len(what.variables) <= 64 else "count"
            return NT[code]

    def waiting(self, function: str, arguments: list[str]) -> Waiting:
        """The wait that a call describes."""
        a = arguments
        match function:
            case "SleepEx":
                self.world.create(self.letter, "sleep", Create("event"))
                what = Waiting(("sleep",), timeout_ms=milliseconds(a[0]))
            case "WaitForSingleObject" | "WaitForSingleObjectEx":
                what = Waiting((a[0],), timeout_ms=milliseconds(a[1]))
            case "WaitForMultipleObjects" | "WaitForMultipleObjectsEx":
                everything = a[2] in ("ALL", "TRUE")
                what = Waiting(self.handles(a[0], a[1]), everything, milliseconds(a[3]))
            case "NtWaitForMultipleObjects":
                what = Waiting(self.handles(a[0], a[1]), a[2] == "0", milliseconds(a[4]))
            case "NtWaitForSingleObject":
                what = Waiting((a[0],), timeout_ms=milliseconds(a[2]))
            case "SignalObjectAndWait":
                what = Waiting((a[1],), timeout_ms=milliseconds(a[2]), signal=a[0])
            case "NtSignalAndWaitForSingleObject":
                what = Waiting((a[1],), timeout_ms=milliseconds(a[3]), signal=a[0])
            case _:
                raise AssertionError(f"no such wait: {function}")
        alertable = function.endswith("Ex") and a[-1] in ("TRUE", "alertable")
        return replace(what, alertable=alertable)

    def wait(self, what: Waiting, words: Callable[[Result | None], str]) -> str:
        """Waits; if another thread than the main one blocks, "X?" asks for its result later."""
        self.finish[self.letter] = words
        self.world.wait(self.letter, what)
        return self.outcome(self.letter)

    def outcome(self, letter: str) -> str:
        """How a letter's wait stands."""
        result = self.world.outcome(letter, BLOCKED in self.expected)
        if result == BLOCKED:
            return BLOCKED
        assert not isinstance(result, str)
        if result and result.alerted:
            self.apcs_run.append(self.apcs[letter].pop(0))
        return self.finish[letter](result)


def described(function: str, arguments: list[str]) -> Create:
    """What a creating function of kernel32 (or its short form) makes."""
    name = object_name(arguments[-1])[0] if arguments[-1].startswith("nm(") else None
    if function.startswith("Open"):
        return Create(kind_of(function), name, create=False)
    if function.startswith("Create"):
        arguments = arguments[1:]  # without the security attributes
    match function:
        case "SEMC" | "CreateSemaphoreW":
            initial, maximum = number(arguments[0]), number(arguments[1])
            return Create("semaphore", name, initial, maximum)
        case "MUTC" | "CreateMutexW":
            return Create("mutex", name, number(arguments[0]))
        case "AUTO" | "MANU":
            return Create("event", name, number(arguments[0]), manual=function == "MANU")
        case "CreateEventW":
            return Create("event", name, number(arguments[1]), manual=bool(number(arguments[0])))
    raise AssertionError(f"no such function: {function}")


def nt_described(function: str, arguments: list[str]) -> Create:
    """What a creating function of ntdll makes. OBJ_OPENIF (0x80) opens what exists."""
    name, flags = object_name(arguments[0])
    kind = kind_of(function)
    if function.startswith("NtOpen"):
        return Create(kind, name, create=False)
    exclusive = not flags & 0x80
    match kind:
        case "event":
            manual, initial = not number(arguments[1]), number(arguments[2])
            return Create(kind, name, initial, manual=manual, exclusive=exclusive)
        case "semaphore":
            initial, maximum = number(arguments[1]), number(arguments[2])
            return Create(kind, name, initial, maximum, exclusive=exclusive)
        case "mutex":
            return Create(kind, name, number(arguments[1]), exclusive=exclusive)


def kind_of(function: str) -> Kind:
    """The kind in a function's name."""
    if "Semaphore" in function:
        return "semaphore"
    return "event" if "Event" in function else "mutex"
