"""The two worlds in which the oracle's scenarios run: the model, and an engine with real
processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from shmsync import errors
from shmsync.engine import Engine, Semantics

from ..model import BLOCKED as QUEUED
from ..model import Model, RefusedError, Result
from .actors import Actor, ActorThread
from .oracle import BLOCKED, MAIN, CallError, Create, State, Waiting
from .peek import Peek
from .watchdog import PATIENCE, eventually, seen

Ending = Literal["return", "exit", "kill"]
Outcome = Result | None | Literal["(blocked)"]


class ModelWorld:
    """The model: every letter is a thread, and time passes when somebody asks how a timed wait
    ended."""

    def __init__(self) -> None:
        self.model = Model()
        self.variables: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.alerts: dict[str, int] = {}
        self.timed: dict[str, bool] = {}
        self.done: dict[str, Result] = {}

    def create(self, letter: str, variable: str, what: Create) -> bool:
        """Names are remembered for ever, and opening ignores kinds: scenarios about these do not
        run."""
        if what.name in self.names:
            self.variables[variable] = self.names[what.name]
            return False
        match what.kind:
            case "semaphore":
                made = self._call(self.model.semaphore, what.initial, what.maximum)
            case "mutex":
                made = self.model.mutex(letter if what.initial else None)
            case "event":
                made = self.model.event(manual=what.manual, signaled=bool(what.initial))
        self.variables[variable] = made
        if what.name:
            self.names[what.name] = made
        return True

    def duplicate(self, letter: str, variable: str, of: str) -> None:
        """Another name for the same number."""
        self.variables[variable] = self.variables[of]

    def close(self, letter: str, variable: str) -> None:
        """The model has no handles."""

    def state(self, letter: str, variable: str, expected: Callable[[State], bool]) -> State:
        """What it is."""
        it = self.model.objects[self.variables[variable]]
        return State(it.kind, it.count, it.maximum, it.owner == letter, it.abandoned)

    def release(self, letter: str, variable: str, n: int) -> int:
        """Release."""
        return int(self._call(self.model.release, self.variables[variable], n))

    def unlock(self, letter: str, variable: str) -> int:
        """Unlock."""
        return int(self._call(self.model.unlock, self.variables[variable], letter))

    def change(self, letter: str, variable: str, how: Literal["set", "reset", "pulse"]) -> bool:
        """Set, reset, pulse."""
        method: Callable[[int], bool] = getattr(self.model, how)
        return method(self.variables[variable])

    def wait(self, letter: str, what: Waiting) -> None:
        """Waits; a poll times out at once."""
        objects = [self.variables[variable] for variable in what.variables]
        alert = self._alert(letter) if what.alertable else None
        if what.signal is None:
            result = self._call(self.model.wait, letter, objects, what.all, alert)
        else:
            signal = self.variables[what.signal]
            result = self._call(self.model.signal_and_wait, letter, signal, objects[0])
        if result != QUEUED:
            self.done[letter] = result
        self.timed[letter] = what.timeout_ms is not None

    def outcome(self, letter: str, expect_blocked: bool) -> Outcome:
        """A timed wait that should have ended, and has no result, has timed out."""
        if letter in self.done:
            return self.done.pop(letter)
        if self.timed[letter] and not expect_blocked:
            return self.model.cancel(letter)
        result = self.model.result(letter)
        return BLOCKED if result == QUEUED else result

    def alert(self, letter: str) -> None:
        """An alert is an auto-reset event."""
        self.model.set(self._alert(letter))

    def end(self, letter: str, how: Ending) -> None:
        """All ways to end are one."""
        self.model.die(letter)

    def _alert(self, letter: str) -> int:
        if letter not in self.alerts:
            self.alerts[letter] = self.model.event(manual=False)
        return self.alerts[letter]

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except RefusedError as refused:
            raise CallError(refused.args[0]) from refused


#: Limits from here on were not reached in the recordings; they are stretched for slow machines.
LONG_MS = 300

CALL_ERRORS: list[tuple[type[Exception], str]] = [
    (errors.ClosedError, "handle"),
    (errors.KindError, "kind"),
    (errors.ExistsError, "exists"),
    (errors.NotFoundError, "missing"),
    (errors.NotOwnerError, "owner"),
    (errors.LimitError, "limit"),
    (ValueError, "argument"),
    (TypeError, "handle"),
]


class EngineWorld:
    """An engine. Letters P and Q are always processes; A, B and C are either further threads of the
    main process, which share its handles, or processes too, to which handles are passed by
    pickling."""

    def __init__(
        self, engine: Engine, start: Callable[..., list[Actor]], letters: set[str]
    ) -> None:
        """``letters`` are the threads that get a process of their own."""
        self.engine = engine
        self.exact = bool(engine.semantics & Semantics.NO_BARGING)
        main, *others = start("main", *sorted(letters))
        self.main: Actor = main
        self.threads: dict[str, ActorThread] = {MAIN: main}
        self.threads.update(zip(sorted(letters), others, strict=True))
        self.ids = {letter: own_id(thread) for letter, thread in self.threads.items()}
        self.opened: set[tuple[Actor, str]] = set()  # handles that a process made or opened itself
        self.passed: set[tuple[Actor, str]] = set()  # copies of the main process's handles
        self.alerts: set[str] = set()
        self.waits: dict[str, Waiting] = {}
        self.finished: dict[str, Result | None] = {}
        self.deaths = False

    # ---- handles ----

    def create(self, letter: str, variable: str, what: Create) -> bool:
        """Creates or opens through the namespace of the letter's process."""
        thread = self._thread(letter)
        options: dict[str, object] = {"create": what.create, "exclusive": what.exclusive}
        match what.kind if what.create else None:
            case "semaphore":
                options |= {"initial": what.initial, "maximum": what.maximum}
            case "mutex":
                options |= {"owned": bool(what.initial)}
            case "event":
                options |= {"manual_reset": what.manual, "signaled": bool(what.initial)}
        created = self._call(thread.make, variable, what.kind, what.name, **options)
        self.opened.add((thread.actor, variable))
        self.passed = {copy for copy in self.passed if copy[1] != variable}
        return bool(created)

    def duplicate(self, letter: str, variable: str, of: str) -> None:
        """By way of a pickle."""
        thread = self._thread(letter)
        thread.call("unpickle", variable, thread.call("pickle", of))
        self.opened.add((thread.actor, variable))

    def close(self, letter: str, variable: str) -> None:
        """Closes the handle, and its copies in other processes, which stand for the same handle."""
        self._thread(letter).method(variable, "close")
        for actor, copied in self.passed:
            if copied == variable:
                closer = actor.thread("closer")
                closer.method(variable, "close")
                closer.end()

    def _key(self, letter: str, variable: str) -> str:
        """Sees to it that the letter's process has the handle."""
        actor = self._thread(letter).actor
        if variable in ("NULL", "(HANDLE)0xdead0", "GetCurrentThread()"):
            return self._bad_handle(letter, variable)
        if (actor, variable) not in self.opened | self.passed:
            self._thread(letter).call("unpickle", variable, self.main.call("pickle", variable))
            self.passed.add((actor, variable))
        return variable

    def _bad_handle(self, letter: str, variable: str) -> str:
        if variable.startswith("(HANDLE)"):
            self._thread(letter).make(variable, "event")
            self._thread(letter).method(variable, "close")
            return variable
        return "NULL"

    # ---- single calls ----

    def state(self, letter: str, variable: str, expected: Callable[[State], bool]) -> State:
        """Where the engine hands over, the state must be right at once, but for deaths."""
        thread, key = self._thread(letter), self._key(letter, variable)

        def look() -> State:
            return as_state(thread.method(key, "state"), self.ids[letter])

        if not self.exact or self.deaths:
            seen(lambda: expected(look()))
        return look()

    def release(self, letter: str, variable: str, n: int) -> int:
        """Release."""
        return int(
            self._call(self._thread(letter).method, self._key(letter, variable), "release", n)
        )

    def unlock(self, letter: str, variable: str) -> int:
        """Release."""
        return int(self._call(self._thread(letter).method, self._key(letter, variable), "release"))

    def change(self, letter: str, variable: str, how: Literal["set", "reset", "pulse"]) -> bool:
        """Set, clear, pulse."""
        method = "clear" if how == "reset" else how
        return bool(self._call(self._thread(letter).method, self._key(letter, variable), method))

    # ---- waits ----

    def wait(self, letter: str, what: Waiting) -> None:
        """Starts the wait on the letter's thread."""
        thread = self._thread(letter)
        self.waits[letter] = what
        keys = [self._key(letter, variable) for variable in what.variables]
        timeout = None if what.timeout_ms is None else what.timeout_ms / 1000
        if timeout is not None and timeout * 1000 >= LONG_MS:
            timeout = PATIENCE
        if what.signal is not None:
            thread.start("signal_and_wait", self._key(letter, what.signal), keys[0], timeout)
        else:
            alert = self._key(letter, self._alert(letter)) if what.alertable else None
            thread.start("wait", keys, what.all, timeout, alert)

    def outcome(self, letter: str, expect_blocked: bool) -> Outcome:
        """Whether it is blocked is looked at only if it should be; else the wait's end is waited
        for."""
        thread = self._thread(letter)
        if letter in self.finished:
            return self.finished.pop(letter)
        if expect_blocked:
            eventually(lambda: thread.blocked() or not thread.busy(), f"{thread!r} blocks or ends")
            if thread.busy():
                return BLOCKED
        try:
            value = self._call(thread.finish)
        except CallError as error:
            too_many = error.args[0] == "limit" and len(self.waits[letter].variables) > 64
            raise CallError("argument") if too_many else error from error
        result = value and Result(value["index"], value["abandoned"], value["alerted"])
        if expect_blocked and result is None:  # a short limit was over before we looked
            self.finished[letter] = result
            return BLOCKED
        return result

    def alert(self, letter: str) -> None:
        """Sets the letter's alert from the main thread."""
        self.main.method(self._key(MAIN, self._alert(letter)), "set")

    def _alert(self, letter: str) -> str:
        variable = f"alert of {letter or 'main'}"
        if letter not in self.alerts:
            self.alerts.add(letter)
            self.create(MAIN, variable, Create("event"))
        return variable

    # ---- endings ----

    def end(self, letter: str, how: Ending) -> None:
        """Ends the thread, or the process if it has one of its own. On engines that learn of deaths
        later, waits until they have."""
        thread = self._thread(letter)
        actor, tid = thread.actor, thread.tid
        self.deaths = True
        if thread is not actor:
            thread.end()
        elif how == "kill":
            actor.kill()
        else:
            assert actor.exit() == 0
        if not self.exact or self.engine.brokered:
            eventually(lambda: tid not in registered(actor.namespace), f"{thread!r} is swept")

    def _thread(self, letter: str) -> ActorThread:
        if letter not in self.threads:
            self.threads[letter] = self.main.thread(letter)
            self.ids[letter] = own_id(self.threads[letter])
        return self.threads[letter]

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            for kind, what in CALL_ERRORS:
                if isinstance(error, kind):
                    raise CallError(what) from error
            raise


def registered(namespace: str) -> set[int]:
    """Kernel ids of the threads registered in a namespace."""
    with Peek(namespace) as peek:
        return peek.registered()


def own_id(thread: ActorThread) -> int:
    """A thread's owner id, as a mutex shows it that it owns."""
    thread.make("mine", "mutex", owned=True)
    owner = int(thread.method("mine", "state")["owner"])
    thread.method("mine", "release")
    thread.call("forget", "mine")
    return owner


def as_state(state: dict[str, Any], me: int) -> State:
    """An actor's ``state()``, for the thread with this owner id."""
    if "maximum" in state:
        return State("semaphore", state["count"], state["maximum"])
    if "owner" in state:
        return State("mutex", state["count"], 0, state["owner"] == me, state["abandoned"])
    return State("manual" if state["manual_reset"] else "auto", int(state["signaled"]))
