"""Random programs from seeds. The same seed makes the same program.

A copy of the model goes along, so that the calls make sense: nobody calls who is waiting, owners
unlock, somebody waits for what is changed. Programs named "single-..." only poll; those named
"threads-..." have waits that go on, of up to four callers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from ..model import COUNT_MAX, RECURSION_MAX
from .sequences import Call, Program, Thing
from .worlds import ModelWorld

#: With four mutexes taken before, so many calls of one caller fit on a stage.
CALLS_MAX = 12


def generate(seed: str) -> Program:
    """The program of a seed."""
    return _Generator(Random(seed), seed, threads=seed.startswith("threads")).program()


def seeds(single: int, threads: int, word: str = "") -> list[str]:
    """The names of so many programs."""
    return [
        *(f"single-{word}{number}" for number in range(single)),
        *(f"threads-{word}{number}" for number in range(threads)),
    ]


def _thing(random: Random) -> Thing:
    match random.choice(["sem", "mutex", "mutex", "manual", "auto"]):
        case "sem":
            maximum = random.choice([1, 2, 3, 3, COUNT_MAX])
            few = random.randint(0, min(2, maximum))
            return Thing("sem", random.choice([few, few, few, maximum, maximum - 1]), maximum)
        case "mutex":
            if random.random() < 0.6:
                return Thing("mutex")
            count = random.choice([1, 1, 1, 2, 2, 3, RECURSION_MAX - 1, RECURSION_MAX])
            return Thing("mutex", count, owner=random.choice("AB"))
        case kind:
            return Thing(kind, random.randint(0, 1))


@dataclass
class _Generator:
    random: Random
    seed: str
    threads: bool
    things: tuple[Thing, ...] = ()
    calls: list[Call] = field(default_factory=list)
    clock: int = 0

    def program(self) -> Program:
        """Objects and calls; in the end nobody waits."""
        self.things = tuple(_thing(self.random) for _ in range(self.random.choice([1, 2, 3, 3, 4])))
        self.world = ModelWorld(self.things)
        self.letters = "ABCD" if self.threads else "ABC"
        for _ in range(self.random.randint(6, CALLS_MAX)):
            self._do(self._call())
        for letter in [*self.world.deadlines]:
            self._do(Call("interrupt", letter))
        return Program(self.seed, self.things, tuple(self.calls))

    def _do(self, call: Call) -> None:
        self.world.do(call)
        self.calls.append(call)

    def _call(self) -> Call:
        makers: dict[Callable[[], Call | None], int] = {
            self._wait: 50,
            self._change: 35,
            self._unlock: 8,
            self._kill: 5,
            self._odd: 3 if self.threads else 6,
            self._clock: 6 if self.threads else 0,
            self._interrupt: 2 if self.threads else 0,
        }
        choices, weights = [*makers], [*makers.values()]
        while True:
            if call := self.random.choices(choices, weights)[0]():
                return call

    def _idle(self) -> list[str]:
        return [letter for letter in self.letters if letter not in self.world.deadlines]

    # ---- waits ----

    def _wait(self) -> Call | None:
        random, idle = self.random, self._idle()
        if not idle:
            return None
        numbers = range(len(self.things))
        what = random.choice(["any", "any", "all"])
        objects = random.sample(numbers, random.randint(1, len(self.things)))
        if self.world.model.waits and random.random() < 0.5:  # what somebody waits for already
            objects = [*random.choice([*self.world.model.waits.values()]).objects]
            if what == "all":
                objects = [*dict.fromkeys(objects)]
        if what == "any" and random.random() < 0.1:  # the same one again, in any place
            objects.insert(random.randint(0, len(objects)), random.choice(objects))
        alert = None
        events = [n for n in numbers if self.things[n].kind in ("manual", "auto")]
        if events and random.random() < 0.2:
            alert = random.choice(events)
        if what == "all" and alert in objects:
            alert = None
        return Call(what, random.choice(idle), tuple(objects), alert=alert, by=self._deadline())

    def _deadline(self) -> int | None:
        if not self.threads:
            return 0
        return self.random.choice([None] * 7 + [self.clock + 1, self.clock + 2, 0])

    # ---- changes ----

    def _change(self) -> Call | None:
        number = self.random.randrange(len(self.things))
        match self.things[number].kind:
            case "sem":
                n = self.random.choice([1, 1, 1, 2, 2, 3, COUNT_MAX, 2**32 - 1])
                return Call("release", objects=(number,), n=n)
            case "mutex":
                return self._unlock(number)
            case _:
                what = self.random.choice(["set", "set", "pulse", "reset"])
                return Call(what, objects=(number,))

    def _mutexes(self, number: int | None) -> list[int]:
        if number is not None:
            return [number]
        return [n for n, thing in enumerate(self.things) if thing.kind == "mutex"]

    def _owner(self, number: int) -> str | None:
        """The owner of a mutex, mostly; now and then anybody."""
        if self.random.random() < 0.1:
            return self.random.choice(self.letters)
        owner = self.world.model.objects[number].owner
        return None if owner is None else str(owner)

    def _unlock(self, number: int | None = None) -> Call | None:
        if not (mutexes := self._mutexes(number)):
            return None
        number = self.random.choice(mutexes)
        letter = self._owner(number)
        if letter is None or letter in self.world.deadlines:
            return None  # who waits makes no other call
        return Call("unlock", letter, (number,))

    def _kill(self) -> Call | None:
        if not (mutexes := self._mutexes(None)):
            return None
        number = self.random.choice(mutexes)
        letter = self._owner(number)
        return Call("kill", letter, (number,)) if letter else None

    # ---- time ----

    def _clock(self) -> Call | None:
        if not any(by for by in self.world.deadlines.values()):
            return None
        self.clock += 1
        return Call("clock", by=self.clock)

    def _interrupt(self) -> Call | None:
        waiting = [*self.world.deadlines]
        return Call("interrupt", self.random.choice(waiting)) if waiting else None

    # ---- calls that are refused, or should be ----

    def _odd(self) -> Call | None:
        """Changes nothing, except for a wait for any of one object 64 times."""
        random, idle = self.random, self._idle()
        number = random.randrange(len(self.things))
        kind = self.things[number].kind
        makers: list[Callable[[], Call | None]] = [
            lambda: Call("make", thing=_odd_thing(random)),
            lambda: Call("release", objects=(number,), n=0) if kind == "sem" else None,
            lambda: Call("unlock", "Z", (number,)) if kind == "mutex" else None,
            lambda: Call("kill", "Z", (number,)) if kind == "mutex" else None,
        ]
        if idle:
            letter = random.choice(idle)
            twice = random.choice([(number, number), (number, 0, number)])
            manual = [n for n, thing in enumerate(self.things) if thing.kind == "manual"]
            makers += [
                lambda: Call("all", letter, twice, by=0),
                lambda: Call("all", letter, (number,), alert=number, by=0),
                lambda: Call("any", letter, (number,) * 65, by=0),
                lambda: Call("all", letter, (number,) * 65, by=0),
                lambda: Call("any", letter, alert=random.choice([None, *manual]), by=0),
                lambda: Call("all", letter, alert=random.choice([None, *manual]), by=0),
            ]
            if not self.threads:
                makers += [lambda: Call("any", letter, (number,) * 64, by=0)]
        return random.choice(makers)()


def _odd_thing(random: Random) -> Thing:
    """One that the kernel or the model or both refuse."""
    kind, owner, count, maximum = random.choice(
        [
            ("sem", "", 3, 2),
            ("sem", "", 2**32 - 1, 2**31 - 1),
            ("sem", "", 0, 0),
            ("sem", "", 1, 0),
            ("sem", "", 1, 2**31),
            ("sem", "", 2**32 - 1, 2**32 - 1),
            ("mutex", "A", 0, 0),
            ("mutex", "Z", 2, 0),
        ]
    )
    return Thing(kind, count, maximum, owner)
