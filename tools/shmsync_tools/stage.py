"""A stage: threads of a small program under the scheduler of the traced module, granted step by
step.

The threads run the very C of the engines, compiled so that every access to shared state is a step.
Nothing happens between two grants, so a run repeats exactly. A stage has a segment of its own,
which goes when the stage is closed. One stage at a time: the scheduler is one per process.

    with Stage() as stage:
        x = stage.event("X", signaled=True)
        a = stage.thread("A", wait(x))
        stage.start()
        a.until("cas", x)        # A stands before its compare-and-swap on X's word
        a.finish()
        assert a.results[0].code == 0
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any

import posix_ipc

from shmsync._traced import ffi, lib
from shmsync.engine import by_name

if TYPE_CHECKING:
    from shmsync._native import CData

FOREVER = 2**64 - 1
#: A deadline that can come at any time the scheduler says.
SOME_TIME = 2**63
STEPS_MAX = 10_000
#: What stands for the counter of an object that has none.
NO_COUNTER = 2**64 - 1
#: Steps on the counter behind an object's descriptor, and calls of a driver on what is behind it.
ON_A_COUNTER = frozenset({"read", "write", "poll"})
ON_A_DEVICE = frozenset({"ioctl", "wait"})
#: What they are taken on. All others: on a word.
PARTS = dict.fromkeys(ON_A_COUNTER, "eventfd") | dict.fromkeys(ON_A_DEVICE, "device")


class State(IntEnum):
    """Where a thread stands. ``READY``: before its next step. ``BLOCKED``: before locking a robust
    mutex that is held. ``DONE``: its program is over, and it lives on, idle."""

    READY = lib.SCHED_READY
    SLEEPING = lib.SCHED_SLEEPING
    BLOCKED = lib.SCHED_BLOCKED
    DONE = lib.SCHED_DONE
    ENDED = lib.SCHED_ENDED
    DEAD = lib.SCHED_DEAD


class Grant(IntEnum):
    """What the scheduler can do to a thread. ``TIMEOUT``: the deadline of its call comes while it
    sleeps. ``RELOOK``: it sleeps for a shorter time than its call may last, and that is over.
    ``SLICE``: it gives up waiting for a lock that is held."""

    STEP = lib.SCHED_STEP
    TIMEOUT = lib.SCHED_TIMEOUT
    KILL = lib.SCHED_KILL
    RELOOK = lib.SCHED_RELOOK
    SLICE = lib.SCHED_SLICE


@dataclass(frozen=True)
class Object:
    """An object on a stage. ``kind`` is one of "semaphore", "mutex", "auto event", "manual
    event"."""

    name: str
    kind: str
    slot: int
    pointer: CData = field(repr=False, compare=False)
    #: Of a mutex: who came first gets it first.
    fair: bool = True


@dataclass(frozen=True)
class ObjectState:
    """The state of an object, whatever its engine keeps it in. ``owner`` is the number of the
    thread that owns a mutex: None if it is free, -1 if its owner is nobody on the stage."""

    count: int
    maximum: int
    owner: int | None
    abandoned: bool
    signaled: bool


@dataclass(frozen=True)
class Call:
    """One call of a thread's program; ``text`` is how a reader would write it."""

    text: str
    what: int
    objects: tuple[Object, ...] = ()
    all: bool = False
    alert: Object | None = None
    signal: Object | None = None
    deadline: int = FOREVER
    amount: int = 0


def wait(
    *objects: Object,
    all: bool = False,
    timeout: int = FOREVER,
    alert: Object | None = None,
    signal: Object | None = None,
) -> Call:
    """A wait for any or all; ``timeout`` is FOREVER, SOME_TIME or 0 (a poll)."""
    names = ", ".join(each.name for each in objects)
    how = {FOREVER: "", 0: ", timeout=0"}.get(timeout, ", timeout=t")
    extra = f", alert={alert.name}" if alert else ""
    if signal is not None:
        text = f"signal_and_wait({signal.name}, {names}{how})"
    else:
        text = f"wait_{'all' if all else 'any'}({names}{how}{extra})"
    return Call(text, lib.CALL_WAIT, objects, all, alert, signal, timeout)


def release(semaphore: Object, n: int = 1) -> Call:
    """``semaphore.release(n)``."""
    text = f"{semaphore.name}.release({'' if n == 1 else n})"
    return Call(text, lib.CALL_SEMAPHORE_RELEASE, (semaphore,), amount=n)


def unlock(mutex: Object) -> Call:
    """``mutex.release()``."""
    return Call(f"{mutex.name}.release()", lib.CALL_MUTEX_RELEASE, (mutex,))


def set_(event: Object) -> Call:
    """``event.set()``."""
    return Call(f"{event.name}.set()", lib.CALL_EVENT_SET, (event,))


def clear(event: Object) -> Call:
    """``event.clear()``."""
    return Call(f"{event.name}.clear()", lib.CALL_EVENT_RESET, (event,))


def pulse(event: Object) -> Call:
    """``event.pulse()``."""
    return Call(f"{event.name}.pulse()", lib.CALL_EVENT_PULSE, (event,))


def read(object_: Object) -> Call:
    """``object.state()``."""
    return Call(f"{object_.name}.state()", lib.CALL_READ, (object_,))


def sweep() -> Call:
    """One round of the sweeper: looks for dead threads, and abandons their mutexes."""
    return Call("sweep()", lib.CALL_SWEEP)


def abandon(mutex: Object) -> Call:
    """Declares the owner of a mutex dead, whether he is or not."""
    return Call(f"abandon({mutex.name})", lib.CALL_ABANDON, (mutex,))


def end() -> Call:
    """The thread ends."""
    return Call("return", lib.CALL_EXIT)


@dataclass(frozen=True)
class Step:
    """One step that was taken: by whom, what, on which word, from which value to which, where in
    the source. ``op`` is "load", "cas", "sleep", ..., or "timeout", "relook" or "kill". ``words``
    are those of every object after it."""

    thread: str
    call: int
    op: str
    word: str
    text: str
    old: int
    now: int
    result: int
    place: str
    words: dict[str, tuple[int, ...]]


def sleeps(step: Step) -> bool:
    """Is it a step in which the thread falls asleep?"""
    return (step.op, step.result) in {
        ("sleep", 0),
        ("poll", -errno.EAGAIN),
        ("wait", -errno.EAGAIN),
    }


@dataclass(frozen=True)
class Result:
    """What a call has returned: ``code`` 0 or a previous state, or -errno; ``finished`` false if it
    has not returned at all. ``state`` is a ``struct ss_state`` as a dict, after a read."""

    code: int
    index: int
    abandoned: int
    finished: bool
    state: dict[str, int]


@dataclass(frozen=True)
class Pending:
    """The step that a thread stands before."""

    op: str
    word: str
    text: str
    place: str


class Thread:
    """A thread on a stage. Its methods grant it steps."""

    def __init__(self, stage: Stage, number: int, name: str, calls: Sequence[Call]) -> None:
        self.stage = stage
        self.number = number
        self.name = name
        self.calls = tuple(calls)

    def __repr__(self) -> str:
        return f"<thread {self.name} {self.state.name} in call {self.call}>"

    def _view(self) -> CData:
        view = ffi.new("struct sched_thread_view *")
        lib.sched_thread(self.number, view)
        return view

    @property
    def state(self) -> State:
        """Where it stands."""
        return State(self._view().state)

    @property
    def call(self) -> int:
        """Number of the call of its program that it is in."""
        return int(self._view().op)

    @property
    def pending(self) -> Pending | None:
        """The step that it stands before, if it is ready or blocked."""
        view = self._view()
        if view.state not in (State.READY, State.BLOCKED):
            return None
        return Pending(
            _text(view.pending_op_name),
            self.stage.name_of(view.pending_address),
            _text(view.pending_text),
            _place(view.pending_file, view.pending_line),
        )

    @property
    def results(self) -> list[Result]:
        """What its calls have returned so far, one for each call of its program."""
        return [self._result(i) for i in range(len(self.calls))]

    def _result(self, number: int) -> Result:
        raw = ffi.new("struct sched_result *")
        lib.sched_result(self.number, number, raw)
        state = {
            name: int(getattr(raw.state, name))
            for name in ("count", "maximum", "owner", "abandoned", "signaled")
        }
        return Result(raw.code, raw.index, raw.abandoned, bool(raw.finished), state)

    def can(self, grant: Grant = Grant.STEP) -> bool:
        """Could it be granted that now?"""
        return bool(lib.sched_can(self.number, grant))

    def step(self) -> None:
        """Grants one step."""
        self.stage.grant(self, Grant.STEP)

    def time_out(self) -> None:
        """Lets the deadline of its call come while it sleeps."""
        self.stage.grant(self, Grant.TIMEOUT)

    def look_again(self) -> None:
        """Ends its sleep, which is shorter than its call may last."""
        self.stage.grant(self, Grant.RELOOK)

    def give_up_lock(self) -> None:
        """Ends its waiting for a lock that is held."""
        self.stage.grant(self, Grant.SLICE)

    def kill(self) -> None:
        """Kills it before its next step."""
        self.stage.grant(self, Grant.KILL)

    def until(self, op: str, word: Object | str | None = None, *, times: int = 1) -> None:
        """Grants steps until it stands before a step of that kind (on that object's first word or
        what its descriptor stands for, or on the word of that name), for the nth time. Raises
        ``AssertionError`` if it never does."""
        part = PARTS.get(op, "word0")
        name = f"{word.name}.{part}" if isinstance(word, Object) else word

        def is_there(pending: Pending) -> bool:
            return pending.op == op and name in (None, pending.word)

        self._until(is_there, times, f"{op} on {name}")

    def until_call(self, number: int) -> None:
        """Grants steps until it is in its call of that number, before its first step there."""
        for _ in range(STEPS_MAX):
            if self.call >= number or not self.can():
                break
            self.step()
        assert self.call == number, f"{self!r} does not get to call {number}"

    def _until(self, is_there: Callable[[Pending], bool], times: int, what: str) -> None:
        for _ in range(STEPS_MAX):
            pending = self.pending
            if pending is not None and is_there(pending):
                times -= 1
                if times == 0:
                    return
            if not self.can():
                break
            self.step()
        raise AssertionError(f"{self!r} never stands before {what}; it stands before {pending}")

    def finish(self) -> None:
        """Grants steps until its program is over. Raises ``AssertionError`` if it sleeps or
        blocks."""
        self.run()
        assert self.state in (State.DONE, State.ENDED), f"{self!r} does not finish"

    def run(self, limit: int = STEPS_MAX) -> State:
        """Grants steps until it sleeps, blocks or is done, ``limit`` at most. Returns where it
        stands."""
        for _ in range(limit):
            if not self.can():
                break
            self.step()
        return self.state


def _text(pointer: CData) -> str:
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode()


def _place(file: CData, line: int) -> str:
    return "" if file == ffi.NULL else f"{_text(file).rpartition('/')[2]}:{line}"


class Stage:
    """Objects and threads, one segment, one scheduler."""

    _open: Stage | None = None

    def __init__(self, engine: str = "fsync") -> None:
        assert Stage._open is None, "one stage at a time"
        self.engine = engine
        #: The namespace's.
        self.name = f"stage-{os.getpid()}"
        self.objects: list[Object] = []
        self.threads: list[Thread] = []
        self.trace: list[Step] = []
        #: The objects' words and states before the first step.
        self.first_words: dict[str, tuple[int, ...]] = {}
        self.first_states: dict[str, ObjectState] = {}
        self._started = False
        self._names: dict[int, str] = {}
        self._attach(by_name(engine).number)
        Stage._open = self

    def _attach(self, engine: int) -> None:
        name = f"/shmsync-{self.name}"
        shm = posix_ipc.SharedMemory(name, flags=posix_ipc.O_CREX, mode=0o600)
        path = ffi.new("char[]", name.encode())
        request = ffi.new("struct ss_attach *")
        request.fd = shm.fd
        request.shm_name = path
        request.engine = request.new_engine = engine
        request.capacity = 8
        request.threads = 16
        request.mode = 0o600
        request.flags = lib.SS_CREATE
        code = lib.ss_attach(request)
        shm.close_fd()
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        self._mapping = request.ns

    # ---- what is on it ----

    def _object(self, name: str, label: str, *, fair: bool = True, **initial: int) -> Object:
        assert not self._started
        request = ffi.new("struct ss_open *")
        request.ns = self._mapping
        request.flags = lib.SS_CREATE
        request.initial = initial
        request.barging = not fair
        code = lib.ss_open(request)
        assert code == 0, os.strerror(-code)
        made = Object(name, label, request.index, request.handle, fair)
        self.objects.append(made)
        return made

    def semaphore(self, name: str, count: int = 0, maximum: int = 100) -> Object:
        """A semaphore with so many tokens."""
        return self._object(name, "semaphore", kind=lib.SS_SEMAPHORE, count=count, maximum=maximum)

    def mutex(self, name: str, *, fair: bool = True) -> Object:
        """A free mutex."""
        return self._object(name, "mutex", fair=fair, kind=lib.SS_MUTEX)

    def event(self, name: str, *, manual: bool = False, signaled: bool = False) -> Object:
        """An event, auto-reset unless ``manual``."""
        kind = lib.SS_MANUAL_EVENT if manual else lib.SS_AUTO_EVENT
        label = "manual event" if manual else "auto event"
        return self._object(name, label, kind=kind, signaled=int(signaled))

    def thread(self, name: str, *calls: Call) -> Thread:
        """A thread that makes these calls."""
        assert not self._started
        made = Thread(self, len(self.threads), name, calls)
        self.threads.append(made)
        return made

    # ---- running ----

    def start(self, *, registered: bool = True, history: bool = False) -> None:
        """Puts every thread before its first step. ``registered``: they have their slots already.
        ``history``: a call begins and returns in steps of their own, which leave no trace, so that
        a search also tries what came before what in the history of calls."""
        lib.sched_history(history)
        code = lib.sched_begin(self._mapping, len(self.threads), registered)
        assert code == 0, os.strerror(-code)
        self._started = True
        for thread in self.threads:
            self._program(thread)
        self.restart()

    def _program(self, thread: Thread) -> None:
        ops = ffi.new("struct sched_op[]", len(thread.calls))
        for op, call in zip(ops, thread.calls, strict=True):
            op.call, op.all, op.count, op.amount = (
                call.what,
                call.all,
                len(call.objects),
                call.amount,
            )
            op.deadline_ns = call.deadline
            op.alert = call.alert.pointer if call.alert else ffi.NULL
            op.signal = call.signal.pointer if call.signal else ffi.NULL
            for i, each in enumerate(call.objects):
                op.handles[i] = each.pointer
        code = lib.sched_program(thread.number, ops, len(thread.calls))
        assert code == 0, os.strerror(-code)

    def restart(self) -> None:
        """Back to the beginning of the program."""
        self.trace = []
        lib.sched_restart()
        self.first_words = self.words()
        self.first_states = self.states()

    def grant(self, thread: Thread, grant: Grant) -> None:
        """Grants a thread a step, a timeout, a re-look or death, and records it in ``trace``."""
        call = thread.call
        lib.step_record(1)
        code = lib.sched_grant(thread.number, grant)
        lib.step_record(0)
        assert code == 0, f"{thread!r} cannot be granted a {grant.name}"
        self.trace.extend(self._recorded(call))

    def _recorded(self, call: int) -> Iterator[Step]:
        view = ffi.new("struct step_view *")
        words = self.words()
        for number in range(lib.step_recorded()):
            lib.step_get(number, view)
            thread = self.threads[view.thread]
            if view.kind != Grant.STEP:
                op = Grant(view.kind).name.lower()
                yield Step(thread.name, call, op, "", "", 0, 0, 0, "", words)
                continue
            yield Step(
                thread.name,
                call,
                _text(view.op_name),
                self.name_of(view.address),
                _text(view.text),
                view.old,
                view.now,
                view.result,
                _place(view.file, view.line),
                words,
            )

    def play(self, schedule: Sequence[tuple[int, int]]) -> None:
        """Restarts, and grants what a schedule says: pairs of thread number and grant."""
        self.restart()
        for number, grant in schedule:
            self.grant(self.threads[number], Grant(grant))

    # ---- looking ----

    def words(self) -> dict[str, tuple[int, ...]]:
        """The two words of every object, and the counter of its eventfd if it has one, by name."""
        raw = ffi.new("uint32_t[2]")
        found = {}
        for each in self.objects:
            lib.sched_words(each.slot, raw)
            counter = int(lib.sched_counter(each.slot))
            found[each.name] = (int(raw[0]), int(raw[1]), *([counter] * (counter != NO_COUNTER)))
        return found

    def states(self) -> dict[str, ObjectState]:
        """The state of every object, by name."""
        raw = ffi.new("struct ss_state *")
        owners = {lib.sched_owner_id(each.number): each.number for each in self.threads}
        found = {}
        for each in self.objects:
            lib.sched_state(each.slot, raw)
            owner = owners.get(raw.owner, -1) if raw.owner else None
            found[each.name] = ObjectState(
                int(raw.count), int(raw.maximum), owner, bool(raw.abandoned), bool(raw.signaled)
            )
        return found

    def owner_name(self, owner: int) -> str:
        """The thread that an owner id in an object's word means: its name, or what else it is."""
        if owner == 0:
            return "free"
        if owner == 2**32 - 1:
            return "abandoned"
        for thread in self.threads:
            if lib.sched_owner_id(thread.number) == owner:
                return thread.name
        return f"owner {owner:#x}"

    def name_of(self, address: int) -> str:
        """What a word is called: ``X.word0`` for an object's, else as layout.h calls it."""
        if address not in self._names:
            self._names[address] = self._name_of(address)
        return self._names[address]

    def _name_of(self, address: int) -> str:
        if address == 0:
            return ""
        buffer = ffi.new("char[80]")
        length = lib.step_name(self._mapping, address, buffer, 80)
        text = ffi.string(buffer, length).decode()
        for each in self.objects:
            prefix = f"object {each.slot} "
            if text.startswith(prefix):
                return f"{each.name}.{text.removeprefix(prefix)}"
        return text

    # ---- leaving ----

    def close(self) -> None:
        """Removes everything."""
        if self._started:
            lib.sched_end()
        for each in self.objects:
            lib.ss_close(each.pointer)
            lib.ss_handle_free(each.pointer)
        lib.ss_detach(self._mapping)
        Stage._open = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def outcome(thread: Thread) -> tuple[Any, ...]:
    """How far a thread has come, in a form to compare: its state, and its finished calls'
    results."""
    done = (result for result in thread.results if result.finished)
    return thread.state, tuple((result.code, result.index, result.abandoned) for result in done)
