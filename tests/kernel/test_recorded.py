"""What a real /dev/ntsync answered, replayed: by the model, and by the engine that promises the
same.

The record is made and checked in a virtual machine (tools/vm/README.md); this takes none.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from ..model import Model, Object
from . import check, ntsync, record
from .differences import DIFFERENCES
from .engine_worlds import (
    ALERTS,
    LISTS,
    MUTEX_ARGUMENTS,
    NOBODY,
    NOT_OWNED,
    NUMBERS,
    OWNS_MORE,
    ApiWorld,
    Staff,
    StageWorld,
)
from .generate import generate, seeds
from .sequences import RECORD, Recorded, read
from .worlds import Account, Disagreement, ModelWorld, compare

HEADER, RECORDS = read()
SINGLE = [each for each in RECORDS if not each.program.threads]
THREADS = [each for each in RECORDS if each.program.threads]
ENGINE = "handoff"


def none(found: Iterable[Disagreement | None]) -> None:
    """Fails with the first few of them."""
    wrong = [each for each in found if each]
    text = "\n\n".join(map(str, wrong[:3]))
    assert not wrong, f"{len(wrong)} programs go otherwise than in the kernel\n{text}"


def by_model(recorded: Recorded, account: Account) -> Disagreement | None:
    """Where the model does otherwise."""
    return compare(recorded, ModelWorld(recorded.program.things), account)


# ---- the record ----


def test_record_says_where_it_comes_from_and_is_small() -> None:
    assert set(HEADER) == {"kernel", "machine", "date", "command", "wait by owner 0"}
    assert RECORD.stat().st_size < 300_000
    assert (len(SINGLE), len(THREADS)) == (record.SINGLE, record.THREADS)


def test_record_has_every_kind_of_answer_many_times() -> None:
    steps = [step for each in RECORDS for step in each.steps]
    answers = Counter((step.call.what, step.answer) for step in steps)
    for what in ("any", "all"):
        for answer in ("0", "0 abandoned", "timeout", "queued", "alert", "EINVAL"):
            assert answers[what, answer] >= 10, (what, answer)
    for call in [
        ("release", "EOVERFLOW"),
        ("unlock", "EPERM"),
        ("unlock", "2"),
        ("kill", "ok"),
        ("kill", "EPERM"),
        ("make", "EINVAL"),
        ("clock", "ok"),
        *((what, answer) for what in ("set", "reset", "pulse") for answer in "01"),
    ]:
        assert answers[call] >= 10, call
    ended = Counter(how for step in steps for how in step.woken.values())
    assert min(ended[how] for how in ("0", "1", "0 abandoned", "alert", "timeout", "EINTR")) >= 10
    assert sum(len(step.woken) > 1 for step in steps) >= 100


def test_record_can_be_written_again() -> None:
    for each in RECORDS[::100]:
        assert Recorded.from_json(each.to_json()) == each


def test_ioctls_are_as_long_as_what_they_take() -> None:
    for request, structure in [
        (ntsync.CREATE_SEM, ntsync.SemaphoreArgs),
        (ntsync.CREATE_MUTEX, ntsync.MutexArgs),
        (ntsync.CREATE_EVENT, ntsync.EventArgs),
        (ntsync.WAIT_ANY, ntsync.WaitArgs),
        (ntsync.WAIT_ALL, ntsync.WaitArgs),
    ]:
        assert request >> 16 & 0x3FFF == ctypes.sizeof(structure)
    assert ntsync.WAIT_ANY == 0xC0284E82


@pytest.mark.parametrize("command", [record.main, check.main])
def test_nothing_is_run_outside_of_a_virtual_machine(
    command: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SHMSYNC_VM", raising=False)
    assert command([]) == 69
    assert "tools/vm/run" in capsys.readouterr().err


def test_a_seed_makes_one_program() -> None:
    for seed in seeds(20, 20):
        assert generate(seed) == generate(seed)
    assert len({generate(seed).calls for seed in seeds(20, 20)}) == 40


# ---- the model ----


def test_model_does_what_the_kernel_did() -> None:
    account = Account()
    none(by_model(each, account) for each in RECORDS)
    assert account.steps == sum(len(each.steps) for each in RECORDS)
    assert set(account.explained) == set(DIFFERENCES)


def newest_first(model: Model) -> None:
    """Who came last is served first."""
    for thread in [*model.waits][::-1]:
        if thread in model.waits:
            model._try(thread, objects=True, alert=True)


def one_queue(model: Model) -> None:
    """Wait-alls and wait-anys in one order of arrival, as the wineserver has them."""
    for thread in [*model.waits]:
        model._try(thread, objects=True, alert=True)


def alerts_first(model: Model) -> None:
    """An alert wins over the objects."""
    for thread in [*model.waits]:
        model._try(thread, objects=False, alert=True)
        if thread in model.waits:
            model._try(thread, objects=True, alert=False)


def no_limit(self: Object, thread: object) -> bool:
    """Recursion without a limit."""
    return self.owner in (None, thread) if self.kind == "mutex" else self.count > 0


def pulse_for_nobody(model: Model, event: int) -> bool:
    """A pulse that wakes nobody."""
    return model.reset(event)


WRONG: list[tuple[type, str, Callable[..., object]]] = [
    (Model, "_serve", newest_first),
    (Model, "_serve", one_queue),
    (Model, "_serve", alerts_first),
    (Model, "pulse", pulse_for_nobody),
    (Object, "signaled_for", no_limit),
]


@pytest.mark.parametrize(
    ("where", "name", "wrong"), WRONG, ids=[wrong.__name__ for _, _, wrong in WRONG]
)
def test_record_contradicts_a_model_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, where: type, name: str, wrong: Callable[..., object]
) -> None:
    monkeypatch.setattr(where, name, wrong)
    account = Account()
    assert sum(by_model(each, account) is not None for each in RECORDS) >= 3


# ---- the engine ----


@pytest.mark.seconds(180)
def test_engine_does_what_the_kernel_did_to_those_who_poll() -> None:
    account = Account()

    def through_api(recorded: Recorded) -> Disagreement | None:
        world = ApiWorld(recorded.program.things, staff)
        try:
            return compare(recorded, world, account)
        finally:
            world.close()

    staff = Staff(ENGINE)
    try:
        none(map(through_api, SINGLE))
    finally:
        staff.close()
    assert set(account.no_such_call) <= {NOBODY, NOT_OWNED, OWNS_MORE, MUTEX_ARGUMENTS, ALERTS}
    assert account.steps > 0.9 * sum(len(each.steps) for each in SINGLE)


@pytest.mark.seconds(180)
def test_engine_does_what_the_kernel_did_to_those_who_wait() -> None:
    account = Account()

    def on_stage(recorded: Recorded) -> Disagreement | None:
        world = StageWorld(recorded, ENGINE)
        try:
            return compare(recorded, world, account)
        finally:
            world.close()

    none(map(on_stage, THREADS))
    assert set(account.no_such_call) <= {NOBODY, NOT_OWNED, LISTS, NUMBERS}
    assert account.cut == 0
    assert account.steps > 0.95 * sum(len(each.steps) for each in THREADS)
