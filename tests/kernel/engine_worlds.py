"""Recorded programs on an engine: through the public API, or on a stage.

``ApiWorld`` runs the programs that only poll. Its callers are threads, and a caller's death is the
end of its thread, which abandons all that it owns, while the kernel's MUTEX_KILL is about one
mutex: so a kill can be said only of a caller who owns nothing else.

``StageWorld`` runs those whose waits go on: the callers are threads under the scheduler of the
traced build, which says for certain who sleeps. There a mutex's owner can be declared dead as in
the kernel, whatever else he owns.

What neither can say: a kill by somebody who is not the owner, and an owner 0.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shmsync_tools import stage as st

import shmsync
from shmsync._traced import ffi, lib

from ..conftest import unique_name
from ..model import COUNT_MAX, WAIT_MAX
from ..support.callers import Caller, own_id
from ..support.checkers import FIELDS, SIZES, Geometry, path_of
from ..support.watchdog import eventually
from .sequences import ALERT, QUEUED, TIMEOUT, Call, Recorded, Step, Thing
from .worlds import NoSuchCallError

MAIN = ""  # the caller of calls that need no owner
SCHEDULER = ("clock", "interrupt")  # what no thread of a stage does
NOBODY = "a call by owner 0"
NOT_OWNED = "a kill of a mutex by somebody who does not own it"
OWNS_MORE = "a kill of one of several mutexes that a caller owns, which would end the thread"
MUTEX_ARGUMENTS = "a mutex with an owner and no count, or a count and no owner"
LISTS = "lists of none or of too many objects, or with one twice in a wait-all: checked before"
NUMBERS = "a release of 0 or of more than 2^31-1, or a wrong maximum: checked before"
ALERTS = "an alert that is no event"


def poke_recursion(name: str, capacity: int, threads: int, slot: int, count: int) -> None:
    """Makes a mutex that is owned once look as if it were owned so many times. (To get there by
    acquiring takes an hour.)"""
    at = Geometry(capacity, threads).objects_at + slot * SIZES["object"]
    with Path(path_of(name)).open("r+b", buffering=0) as file:
        file.seek(at + FIELDS["object", "word0"][0])
        file.write(struct.pack("=I", count))


class Staff:
    """A namespace and the threads of callers, used by one program after the other."""

    CAPACITY, THREADS = 64, 16

    def __init__(self, engine: str) -> None:
        name = unique_name(engine)
        self.namespace = shmsync.Namespace(
            name, engine=engine, capacity=self.CAPACITY, threads=self.THREADS
        )
        self.callers: dict[str, Caller] = {}
        self.ids: dict[str, int] = {}
        for letter in "ABC":
            self.hire(letter)

    def hire(self, letter: str) -> None:
        """Starts a caller's thread."""
        self.callers[letter] = Caller()
        self.ids[letter] = own_id(self.namespace, self.callers[letter])

    def replace(self, letter: str) -> None:
        """The caller dies, and another one comes in his place."""
        self.callers[letter].end()
        self.hire(letter)

    def close(self) -> None:
        """Ends everything."""
        for caller in self.callers.values():
            caller.end()
        self.namespace.close()


class ApiWorld:
    """The objects of a program that only polls, through the public API."""

    def __init__(self, things: Sequence[Thing], staff: Staff) -> None:
        self.things = things
        self.staff = staff
        self.handles = [self._make(thing) for thing in things]

    def _make(self, thing: Thing) -> Any:
        namespace = self.staff.namespace
        if thing.kind == "sem":
            return namespace.semaphore(None, thing.count, maximum=thing.maximum)
        if thing.kind != "mutex":
            return namespace.event(manual_reset=thing.kind == "manual", signaled=bool(thing.count))
        if not thing.owner:
            return namespace.mutex()
        mutex = self.staff.callers[thing.owner].do(lambda: namespace.mutex(owned=True))
        size = Staff.CAPACITY, Staff.THREADS
        poke_recursion(namespace.name, *size, mutex.slot, thing.count)
        return mutex

    def do(self, call: Call) -> Step:
        """Makes the call in its caller's thread."""
        if call.letter == "Z":
            raise NoSuchCallError(NOBODY)
        try:
            answer = self._answer(call)
        except shmsync.NotOwnerError:
            answer = "EPERM"
        except shmsync.KindError:
            raise NoSuchCallError(ALERTS) from None
        except shmsync.LimitError:
            answer = "EINVAL" if call.waits else "EOVERFLOW"
        except ValueError:
            answer = "EINVAL"
        return Step(call, answer, {}, tuple(self._states()))

    def _answer(self, call: Call) -> str:
        handle: Any = self.handles[call.objects[0]] if call.objects else None
        match call.what:
            case "any" | "all":
                return self._wait(call)
            case "make":
                assert call.thing
                if call.thing.kind == "mutex":
                    raise NoSuchCallError(MUTEX_ARGUMENTS)
                self._make(call.thing).close()
                return "ok"
            case "release":
                return str(handle.release(call.n))
            case "unlock":
                return str(self.staff.callers[call.letter].do(handle.release))
            case "kill":
                return self._kill(call)
        method = {"set": "set", "reset": "clear", "pulse": "pulse"}[call.what]
        return str(int(getattr(handle, method)()))

    def _wait(self, call: Call) -> str:
        wait = shmsync.wait_all if call.what == "all" else shmsync.wait_any
        handles = [self.handles[number] for number in call.objects]
        alert = None if call.alert is None else self.handles[call.alert]
        caller = self.staff.callers[call.letter]
        result = caller.do(lambda: wait(handles, 0, alert=alert))
        if result is None:
            return TIMEOUT
        if result.alerted:
            return ALERT
        return f"{result.index} abandoned" if result.abandoned else str(result.index)

    def _kill(self, call: Call) -> str:
        (number,) = call.objects
        owned = [n for n, state in enumerate(self._states()) if state.startswith(call.letter)]
        if number not in owned:
            raise NoSuchCallError(NOT_OWNED)
        if len(owned) > 1:
            raise NoSuchCallError(OWNS_MORE)
        self.staff.callers[call.letter].end()
        eventually(lambda: self.handles[number].state().abandoned, "the news of a death")
        self.staff.hire(call.letter)
        return "ok"

    def _states(self) -> Iterator[str]:
        letters = {owner: letter for letter, owner in self.staff.ids.items()}
        for handle in self.handles:
            match handle.state():
                case shmsync.SemaphoreState(count):
                    yield str(count)
                case shmsync.MutexState(0, _, abandoned):
                    yield "abandoned" if abandoned else "free"
                case shmsync.MutexState(count, owner):
                    yield f"{letters[owner]}*{count}"
                case shmsync.EventState(_, signaled):
                    yield str(int(signaled))

    def close(self) -> None:
        """Callers who own something die, and the objects go."""
        for letter in {state[0] for state in self._states()} & set(self.staff.callers):
            self.staff.replace(letter)
        for handle in self.handles:
            handle.close()


class StageWorld:
    """The objects and callers of a program on a stage."""

    def __init__(self, recorded: Recorded, engine: str) -> None:
        self.program = program = recorded.program
        self.steps = recorded.steps
        self.stage = st.Stage(engine)
        self.objects = [self._make(n, thing) for n, thing in enumerate(program.things)]
        letters = sorted({call.letter for call in program.calls} | self._first_owners() | {MAIN})
        self.threads = {
            letter: self.stage.thread(letter or "main", *self._first(letter), *self._calls(letter))
            for letter in letters
        }
        self.letters = {thread.number: letter for letter, thread in self.threads.items()}
        self.next = dict.fromkeys(letters, 0)  # the number of each thread's next call
        self.queued: dict[str, Call] = {}
        self._view = ffi.new("struct sched_thread_view *")
        self.stage.start()
        self._own()

    def _make(self, number: int, thing: Thing) -> st.Object:
        name = f"object {number}"
        match thing.kind:
            case "sem":
                return self.stage.semaphore(name, thing.count, thing.maximum)
            case "mutex":
                return self.stage.mutex(name)
            case kind:
                return self.stage.event(name, manual=kind == "manual", signaled=bool(thing.count))

    # ---- programs of the threads ----

    def _first_owners(self) -> set[str]:
        return {thing.owner for thing in self.program.things if thing.owner}

    def _first(self, letter: str) -> list[st.Call]:
        """The mutexes that a thread owns when the program begins."""
        things = zip(self.program.things, self.objects, strict=True)
        return [st.wait(mutex) for thing, mutex in things if letter and thing.owner == letter]

    def _own(self) -> None:
        """Takes them, as often as it says."""
        for letter in self.threads:
            for _ in self._first(letter):
                assert self._run(letter)
                self.next[letter] += 1
        for thing, mutex in zip(self.program.things, self.objects, strict=True):
            if thing.owner:
                poke_recursion(self.stage.name, 8, 16, mutex.slot, thing.count)

    def _calls(self, letter: str) -> Iterator[st.Call]:
        for step in self.steps:
            refused_kill = step.call.what == "kill" and step.answer != "ok"
            if _unsayable(step.call) or refused_kill or step.call.what in SCHEDULER:
                continue
            if _caller(step.call) == letter:
                yield self._call(step.call)

    def _call(self, call: Call) -> st.Call:
        """The call of a stage."""
        objects = [self.objects[number] for number in call.objects]
        if call.waits:
            alert = None if call.alert is None else self.objects[call.alert]
            timeout = 0 if call.polls else st.SOME_TIME
            return st.wait(*objects, all=call.what == "all", timeout=timeout, alert=alert)
        if call.what == "release":
            return st.release(objects[0], call.n)
        makers = {"unlock": st.unlock, "kill": st.abandon, "set": st.set_, "reset": st.clear}
        return makers.get(call.what, st.pulse)(objects[0])

    # ---- running ----

    def do(self, call: Call) -> Step:
        """Grants steps until everybody has returned or sleeps."""
        if why := _unsayable(call):
            raise NoSuchCallError(why)
        if call.what == "kill" and not self._owns(call.letter, call.objects[0]):
            raise NoSuchCallError(NOT_OWNED)
        answer = "ok" if call.what in SCHEDULER else self._answer(call)
        return Step(call, answer, self._woken(call), tuple(self._states()))

    def _answer(self, call: Call) -> str:
        letter = _caller(call)
        if not self._run(letter):
            self.queued[letter] = call
            return QUEUED
        return self._result(letter, call)

    def _run(self, letter: str) -> bool:
        """Lets a thread go on until its call returns, or it sleeps; has it returned?"""
        number = self.threads[letter].number
        while not self._has_returned(letter):
            if not lib.sched_can(number, st.Grant.STEP):
                return False
            assert lib.sched_grant(number, st.Grant.STEP) == 0
        return True

    def _has_returned(self, letter: str) -> bool:
        lib.sched_thread(self.threads[letter].number, self._view)
        return bool(self._view.state == st.State.DONE or self._view.op > self.next[letter])

    def _result(self, letter: str, call: Call) -> str:
        """What the call that has returned gave."""
        result = self.threads[letter].results[self.next[letter]]
        self.next[letter] += 1
        if result.code == -errno.ETIMEDOUT:
            return TIMEOUT
        if result.code < 0:
            return errno.errorcode[-result.code]
        if not call.waits:
            return "ok" if call.what == "kill" else str(result.code)
        if call.alert is not None and result.index == len(call.objects):
            return ALERT
        return f"{result.index} abandoned" if result.abandoned else str(result.index)

    def _woken(self, call: Call) -> dict[str, str]:
        woken = {}
        for letter, wait in [*self.queued.items()]:
            if wait is call:
                continue
            is_up = call.what == "clock" and wait.by is not None and wait.by <= (call.by or 0)
            interrupted = call.what == "interrupt" and call.letter == letter
            if is_up or interrupted:  # a stage has no signals: its time is up
                number = self.threads[letter].number
                assert lib.sched_grant(number, st.Grant.TIMEOUT) == 0
            if self._run(letter):
                how = self._result(letter, wait)
                woken[letter] = "EINTR" if interrupted and how == TIMEOUT else how
                del self.queued[letter]
        return woken

    # ---- looking ----

    def _owns(self, letter: str, number: int) -> bool:
        return [*self._states()][number].startswith(f"{letter}*")

    def _states(self) -> Iterator[str]:
        for state, thing in zip(self.stage.states().values(), self.program.things, strict=True):
            if thing.kind == "sem":
                yield str(state.count)
            elif thing.kind != "mutex":
                yield str(int(state.signaled))
            elif state.owner is not None:
                yield f"{self.letters[state.owner]}*{state.count}"
            else:
                yield "abandoned" if state.abandoned else "free"

    def close(self) -> None:
        """Removes the stage."""
        self.stage.close()


def _caller(call: Call) -> str:
    """Who makes it on a stage."""
    return MAIN if call.what == "kill" else call.letter


def _unsayable(call: Call) -> str | None:
    """Why a stage cannot make the call: it has nobody to make it, or the API checks its arguments
    before the engine hears of it."""
    everything = [*call.objects] if call.alert is None else [*call.objects, call.alert]
    twice = call.what == "all" and len({*everything}) < len(everything)
    if call.letter == "Z":
        return NOBODY
    if call.waits and (not 1 <= len(call.objects) <= WAIT_MAX or twice):
        return LISTS
    if call.what == "make" or (call.what == "release" and not 1 <= call.n <= COUNT_MAX):
        return NUMBERS
    return None
