"""What a process of the storm does: everything, at random, until it is killed or told to leave."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Sequence

from shmsync import (
    Event,
    Handle,
    LimitError,
    Mutex,
    Namespace,
    Semaphore,
    WaitResult,
    signal_and_wait,
    wait_all,
    wait_any,
)

from ..support.watchdog import PATIENCE, seen
from .board import (
    GUARDS,
    LEAVING,
    TOKENS,
    Board,
    Has,
    ViolationError,
    enter_section,
    leave_section,
)

PR_SET_PDEATHSIG = 1
STOP = "stop"
TOKENS_EACH = 3
#: Loose objects: nobody counts them, and they are there as long as somebody has them open.
LOOSE = {"mutex": 8, "semaphore": 9, "auto": 10, "manual": 10}
LOOSE_NAMES = [f"{kind} {number}" for kind, many in LOOSE.items() for number in range(many)]
TOKEN_NAMES = [f"token {number}" for number in range(TOKENS)]
GUARD_NAMES = [f"guard {number}" for number in range(GUARDS)]
NAMES = [STOP, *TOKEN_NAMES, *GUARD_NAMES, *LOOSE_NAMES]


def open_object(namespace: Namespace, name: str) -> Handle:
    """The object of that name, made if it is not there."""
    match name.split(maxsplit=1)[0]:
        case "token":
            return namespace.semaphore(name, TOKENS_EACH)
        case "semaphore":
            return namespace.semaphore(name, 1, maximum=3)
        case "guard" | "mutex":
            return namespace.mutex(name)
        case kind:
            return namespace.event(name, manual_reset=kind in ("manual", STOP))


class Life:
    """One thread and its lane."""

    def __init__(self, namespace: Namespace, board: Board, number: int, seed: int) -> None:
        self.namespace = namespace
        self.board = board
        self.number = number
        self.lane = board.lanes[number]
        self.random = random.Random(f"{seed} {self.lane.life}")
        self.handles: dict[str, Handle] = {}
        self.held: list[Mutex] = []
        self.guards: list[int] = []
        self.tokens: list[int] = []

    # ---- small things ----

    def handle(self, name: str) -> Handle:
        """Opened once, until it is closed."""
        if name not in self.handles:
            self.handles[name] = open_object(self.namespace, name)
        return self.handles[name]

    def loose(self, *kinds: str) -> Handle:
        """A loose object of one of the kinds, or of any."""
        kind = self.random.choice(kinds or [*LOOSE])
        return self.handle(f"{kind} {self.random.randrange(LOOSE[kind])}")

    def event(self) -> Event:
        """A loose event."""
        handle = self.loose("auto", "manual")
        assert isinstance(handle, Event)
        return handle

    def stop(self) -> Event:
        """The alert that ends all waits."""
        handle = self.handle(STOP)
        assert isinstance(handle, Event)
        return handle

    def short(self) -> float:
        """A timeout for who owns something that others wait for."""
        return self.random.choice([0, 0, 0.0001, 0.0005, 0.005])

    def timeout(self) -> float | None:
        """A timeout of a wait that the stop ends, too."""
        busy = self.held or self.guards or self.tokens
        return self.short() if busy or self.random.random() < 0.97 else None

    # ---- waits on what is counted ----

    def taken(self, names: Sequence[str], result: WaitResult | None, everything: bool) -> None:
        """Writes down what a wait has taken of its first objects, whose names these are."""
        for index, name in enumerate(names):
            kind, _, number = name.partition(" ")
            got = (
                result is not None and not result.alerted and (everything or result.index == index)
            )
            if kind == "guard":
                if got:
                    assert result is not None
                    enter_section(self.board.guarded[int(number)], self.lane.life, result.abandoned)
                    self.guards.append(int(number))
                self.lane.guards[int(number)] = Has.TAKEN if got else Has.NOTHING
            elif kind == "token":
                self.lane.tokens[int(number)] = Has.TAKEN if got else Has.NOTHING
                if got:
                    self.tokens.append(int(number))

    def about_to_take(self, names: Sequence[str]) -> None:
        """Writes down what may be taken from now on."""
        for name in names:
            kind, _, number = name.partition(" ")
            if kind == "guard":
                self.lane.guards[int(number)] = Has.PERHAPS_TAKEN
            elif kind == "token":
                self.lane.tokens[int(number)] = Has.PERHAPS_TAKEN

    def counted(self, guards: int, tokens: int) -> list[str]:
        """Names of counted objects that we do not have."""
        free = [number for number in range(GUARDS) if number not in self.guards]
        names = [f"guard {n}" for n in self.random.sample(free, min(guards, len(free)))]
        free = [number for number in range(TOKENS) if number not in self.tokens]
        names += [f"token {n}" for n in self.random.sample(free, min(tokens, len(free)))]
        self.random.shuffle(names)
        return names

    def take_any(self) -> None:
        """A wait for one of several counted objects, and loose ones."""
        names = self.counted(self.random.randrange(3), self.random.randrange(3))
        handles = [
            *map(self.handle, names),
            *(self.loose() for _ in range(self.random.randrange(3))),
        ]
        if not handles:
            return
        self.lane.does(f"wait_any {names} and {len(handles) - len(names)}")
        self.about_to_take(names)
        result = wait_any(handles, self.timeout(), alert=self.stop())
        self.taken(names, result, False)
        self.note_loose(result)

    def take_all(self) -> None:
        """A wait for counted objects together, at most one of them a mutex, so that what the result
        says of it is clear."""
        names = self.counted(self.random.randrange(2), self.random.randrange(3))
        handles = [*map(self.handle, names)]
        if self.random.random() < 0.3:
            handles.append(self.handle(f"manual {self.random.randrange(LOOSE['manual'])}"))
        if not handles:
            return
        self.lane.does(f"wait_all {names} of {len(handles)}")
        self.about_to_take(names)
        result = wait_all(handles, self.timeout(), alert=self.stop())
        self.taken(names, result, True)

    def give_token(self, number: int) -> None:
        """Puts one back."""
        self.lane.does(f"release token {number}")
        self.lane.tokens[number] = Has.PERHAPS_GIVEN_BACK
        handle = self.handle(f"token {number}")
        assert isinstance(handle, Semaphore)
        handle.release()
        self.gave_token(number)

    def gave_token(self, number: int) -> None:
        """It is back."""
        self.lane.tokens[number] = Has.NOTHING
        self.tokens.remove(number)

    def give_guard(self, number: int) -> None:
        """Leaves the section, then unlocks."""
        self.lane.does(f"release guard {number}")
        leave_section(self.board.guarded[number], self.lane.life)
        self.lane.guards[number] = Has.PERHAPS_GIVEN_BACK
        handle = self.handle(f"guard {number}")
        assert isinstance(handle, Mutex)
        before = handle.release()
        if before != 1:
            raise ViolationError(f"guard {number} was owned {before} times")
        self.gave_guard(number)

    def gave_guard(self, number: int) -> None:
        """It is free."""
        self.lane.guards[number] = Has.NOTHING
        self.guards.remove(number)

    def give(self) -> None:
        """Gives something back."""
        if self.tokens and self.random.random() < 0.6:
            self.give_token(self.random.choice(self.tokens))
        elif self.guards:
            self.give_guard(self.random.choice(self.guards))

    def recurse(self) -> None:
        """A mutex that we own, once more."""
        if not self.guards:
            return
        handle = self.handle(f"guard {self.random.choice(self.guards)}")
        assert isinstance(handle, Mutex)
        self.lane.does("acquire and release again")
        if handle.acquire(timeout=0) != 1 or handle.release() != 2:
            raise ViolationError("an owner could not acquire again")

    def hand_on(self) -> None:
        """signal_and_wait on counted objects: a token for a mutex, or the other way round."""
        if self.tokens and len(self.guards) < GUARDS and self.random.random() < 0.5:
            given, names = self.random.choice(self.tokens), self.counted(1, 0)
            self.lane.does(f"signal_and_wait token {given} {names}")
            self.lane.tokens[given] = Has.PERHAPS_GIVEN_BACK
            self.about_to_take(names)
            result = signal_and_wait(
                self.handle(f"token {given}"), self.handle(names[0]), self.short()
            )
            self.gave_token(given)
            self.taken(names, result, False)
        elif self.guards and len(self.tokens) < TOKENS:
            given, names = self.random.choice(self.guards), self.counted(0, 1)
            self.lane.does(f"signal_and_wait guard {given} {names}")
            leave_section(self.board.guarded[given], self.lane.life)
            self.lane.guards[given] = Has.PERHAPS_GIVEN_BACK
            self.about_to_take(names)
            result = signal_and_wait(
                self.handle(f"guard {given}"), self.handle(names[0]), self.short()
            )
            self.gave_guard(given)
            self.taken(names, result, False)

    # ---- loose objects ----

    def note_loose(self, result: WaitResult | None) -> None:
        """Loose mutexes that were taken are to be released some time."""
        if result is None or result.alerted:
            return
        for handle in result._taken:
            if isinstance(handle, Mutex) and handle.name not in GUARD_NAMES:
                self.held.append(handle)

    def signal_loose(self) -> None:
        """Set, clear, pulse or release."""
        event = self.event()
        call = self.random.choice([event.set, event.set, event.clear, event.pulse, self.release])
        self.lane.does(f"{call.__name__} {event.name}")
        call()

    def release(self) -> None:
        """A loose semaphore, up to its maximum."""
        tokens = self.loose("semaphore")
        assert isinstance(tokens, Semaphore)
        with contextlib.suppress(LimitError):
            tokens.release(self.random.randint(1, 2))

    def wait_loose(self) -> None:
        """For any or all of several."""
        wait = self.random.choice([wait_any, wait_all])
        several = {self.loose() for _ in range(self.random.choice([1, 1, 2, 3, 6]))}
        handles = list({handle.slot: handle for handle in several}.values())
        alert = self.stop() if self.random.random() < 0.7 else self.event()
        if alert in handles:
            return
        timeout = self.timeout() if alert is self.stop() else self.short()
        self.lane.does(f"{wait.__name__} {[h.name for h in handles]} {alert.name} {timeout}")
        self.note_loose(wait(handles, timeout, alert=alert))

    def signal_and_wait_loose(self) -> None:
        """On two loose objects; a mutex only if it is ours."""
        signal = self.random.choice(self.held) if self.held else self.event()
        waited = self.loose()
        self.lane.does(f"signal_and_wait {signal.name} {waited.name}")
        result = signal_and_wait(signal, waited, self.short())
        if isinstance(signal, Mutex):
            self.held.remove(signal)
        self.note_loose(result)

    def unlock_loose(self) -> None:
        """One that is ours."""
        if self.held:
            mutex = self.held.pop(self.random.randrange(len(self.held)))
            self.lane.does(f"release {mutex.name}")
            mutex.release()

    def close_one(self) -> None:
        """A handle less; the object goes if it was the last. What we own stays open."""
        names = [n for n in self.handles if n in LOOSE_NAMES and self.handles[n] not in self.held]
        if names:
            name = self.random.choice(names)
            self.lane.does(f"close {name}")
            self.handles.pop(name).close()

    # ---- living ----

    def live(self, steps: int) -> None:
        """So many random steps, or until told to leave."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self.take_any, 5),
            (self.take_all, 5),
            (self.give, 8),
            (self.recurse, 1),
            (self.hand_on, 2),
            (self.signal_loose, 6),
            (self.wait_loose, 6),
            (self.signal_and_wait_loose, 2),
            (self.unlock_loose, 3),
            (self.close_one, 3),
        ]
        calls, weights = [act for act, _ in acts], [weight for _, weight in acts]
        for _ in range(steps):
            while self.board.parking:
                self.park()
            if self.board.phase == LEAVING:
                break
            self.random.choices(calls, weights)[0]()
        self.give_counted_back()

    def give_counted_back(self) -> None:
        """What the books say that we have."""
        for number in [*self.tokens]:
            self.give_token(number)
        for number in [*self.guards]:
            self.give_guard(number)

    def park(self) -> None:
        """Gives everything back, and stands still until the storm goes on."""
        self.give_counted_back()
        while self.held:
            self.unlock_loose()
        self.lane.does("parked")
        self.lane.parked = phase = self.board.phase
        while not seen(lambda: self.board.phase != phase):
            pass

    def use_everything(self) -> None:
        """Every object works: the last thing that a survivor does."""
        for name in NAMES:
            self.lane.does(f"use {name}")
            handle = self.handle(name)
            if isinstance(handle, Event):
                handle.is_set()
                if name != STOP:
                    handle.set()
            elif name in LOOSE_NAMES and isinstance(handle, Semaphore):
                handle.acquire(timeout=0)
            elif handle.acquire(timeout=PATIENCE):  # type: ignore[attr-defined]
                handle.release()  # type: ignore[attr-defined]
            else:
                raise ViolationError(f"{name} could not be had")


class Process:
    """A process of the storm, and its threads."""

    def __init__(self, name: str, board: Board, lanes: Sequence[int], seed: int) -> None:
        self.name = name
        self.board = board
        self.lanes = lanes
        self.seed = seed
        self.namespace: Namespace

    def run(self) -> None:
        """Never returns."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self.guarded(self.lanes[0], self.storm)
        os._exit(0)

    def guarded(self, lane: int, body: Callable[[], None]) -> None:
        """What goes wrong is written down, and ends the process."""
        try:
            body()
        except BaseException:
            self.board.lanes[lane].complaint = traceback.format_exc().encode()[-3999:]
            os._exit(1)

    def storm(self) -> None:
        """The main thread; it starts the others."""
        self.board.lanes[self.lanes[0]].does("attach")
        self.namespace = Namespace(self.name, create=False)
        threads = [self.thread(lane) for lane in self.lanes[1:]]
        self.live(self.lanes[0])
        for thread in threads:
            thread.join()
        self.board.lanes[self.lanes[0]].does("leave")
        self.namespace.close()

    def thread(self, lane: int) -> threading.Thread:
        """A thread that lives as a chain of threads."""

        def chain() -> None:
            while self.board.phase != LEAVING:
                link = threading.Thread(target=self.guarded, args=(lane, lambda: self.link(lane)))
                link.start()
                link.join()

        thread = threading.Thread(target=self.guarded, args=(lane, chain))
        thread.start()
        return thread

    def link(self, lane: int) -> None:
        """A thread that ends some time, perhaps with loose mutexes that are abandoned then."""
        self.board.lanes[lane].tid = threading.get_native_id()
        life = Life(self.namespace, self.board, lane, self.seed)
        life.random.seed(f"{self.seed} {self.board.lanes[lane].life} {threading.get_native_id()}")
        life.live(life.random.randint(1, 300))

    def live(self, lane: int) -> None:
        """The main thread; alone in its process, it leaves and comes back now and then."""
        self.board.lanes[lane].tid = threading.get_native_id()
        life = Life(self.namespace, self.board, lane, self.seed)
        while self.board.phase != LEAVING:
            life.live(200)
            if len(self.lanes) == 1 and not life.held and not self.board.parking:
                life.lane.does("leave and come back")
                self.namespace.close()
                self.namespace = life.namespace = Namespace(self.name, create=False)
                life.handles = {}
        life.use_everything()
