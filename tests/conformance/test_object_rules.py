"""native/object.h, the NT rules as pure functions on a struct, against the model."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shmsync._native import ffi, lib

from ..model import BLOCKED, COUNT_MAX, RECURSION_MAX, Model, Object, RefusedError

KINDS = {
    "semaphore": lib.SS_SEMAPHORE,
    "mutex": lib.SS_MUTEX,
    "auto": lib.SS_AUTO_EVENT,
    "manual": lib.SS_MANUAL_EVENT,
}

counts = st.integers(0, 3) | st.integers(COUNT_MAX - 2, COUNT_MAX)
owners = st.integers(1, 3)
calls = {
    "semaphore": st.tuples(st.just("release"), st.integers(0, 3) | st.just(COUNT_MAX)),
    "mutex": st.tuples(st.sampled_from(["unlock", "kill"]), owners),
    "auto": st.tuples(st.sampled_from(["set", "reset"]), st.none()),
    "manual": st.tuples(st.sampled_from(["set", "reset"]), st.none()),
}


@st.composite
def objects(draw: st.DrawFn) -> Object:
    """An object in any state that it can get into."""
    kind = draw(st.sampled_from(["semaphore", "mutex", "auto", "manual"]))
    if kind == "semaphore":
        maximum = max(draw(counts), 1)
        return Object("semaphore", min(draw(counts), maximum), maximum)
    if kind == "mutex":
        count = draw(st.integers(0, 2) | st.integers(RECURSION_MAX - 1, RECURSION_MAX))
        if count:
            return Object("mutex", count, owner=draw(owners))
        return Object("mutex", 0, abandoned=draw(st.booleans()))
    return Object("auto" if kind == "auto" else "manual", draw(st.integers(0, 1)))


def struct_of(it: Object) -> Any:
    """The object as C has it."""
    struct = ffi.new("struct ss_state *")
    struct.kind = KINDS[it.kind]
    struct.owner, struct.abandoned, struct.maximum = it.owner or 0, it.abandoned, it.maximum
    if it.kind in ("auto", "manual"):
        struct.signaled = it.count
    else:
        struct.count = it.count
    return struct


def bytes_of(struct: Any) -> bytes:
    """For comparing all fields at once."""
    return bytes(ffi.buffer(struct))


def native_call(call: str, struct: Any, argument: Any) -> int:
    """One of the changes."""
    match call:
        case "release":
            return int(lib.ss_object_semaphore_release(struct, argument))
        case "unlock":
            return int(lib.ss_object_mutex_unlock(struct, argument))
        case "kill":
            return int(lib.ss_object_mutex_kill(struct, argument))
        case "set":
            return int(lib.ss_object_event_set(struct))
    return int(lib.ss_object_event_reset(struct))


def model_call(call: str, model: Model, argument: Any) -> int:
    """The same change in the model; its errors as C has them."""
    before = model.objects[0].count
    arguments = [] if argument is None else [argument]
    try:
        getattr(model, call)(0, *arguments)
    except RefusedError as refused:
        codes = {"argument": errno.EINVAL, "limit": errno.EOVERFLOW, "owner": errno.EPERM}
        return -codes[refused.args[0]]
    return before


@given(it=objects(), data=st.data())
def test_every_change_does_what_the_model_does(it: Object, data: st.DataObject) -> None:
    struct, model = struct_of(it), Model(objects=[it])
    for call, argument in data.draw(st.lists(calls[it.kind], min_size=1, max_size=5)):
        assert native_call(call, struct, argument) == model_call(call, model, argument)
        assert bytes_of(struct) == bytes_of(struct_of(it))


@given(it=objects(), owner=owners)
def test_every_object_is_signaled_and_taken_as_in_the_model(it: Object, owner: int) -> None:
    struct, model = struct_of(it), Model(objects=[it])
    signaled = lib.ss_object_is_signaled(struct, owner)
    result = model.wait(owner, [0])
    assert bool(signaled) == (result != BLOCKED)
    if signaled:
        assert lib.ss_object_take(struct, owner) == result.abandoned
        assert bytes_of(struct) == bytes_of(struct_of(it))


@given(count=counts | st.integers(0, 2**32 - 1), maximum=counts | st.integers(0, 2**32 - 1))
def test_semaphores_are_created_with_the_counts_that_the_model_allows(
    count: int, maximum: int
) -> None:
    struct = struct_of(Object("semaphore", count, maximum))
    try:
        Model().semaphore(count, maximum)
    except RefusedError:
        assert lib.ss_object_check(struct) == -errno.EINVAL
    else:
        assert lib.ss_object_check(struct) == 0


@given(it=objects())
def test_every_state_of_a_mutex_or_event_can_be_its_first(it: Object) -> None:
    assert lib.ss_object_check(struct_of(it)) == 0


@given(owner=st.integers(0, 2), count=st.integers(0, 2))
def test_mutex_is_created_owned_and_counted_or_neither(owner: int, count: int) -> None:
    struct = struct_of(Object("mutex", count, owner=owner))
    assert lib.ss_object_check(struct) == (0 if bool(owner) == bool(count) else -errno.EINVAL)


@given(it=objects(), n=st.integers(COUNT_MAX + 1, 2**32 - 1))
def test_release_beyond_a_c_long_changes_nothing(it: Object, n: int) -> None:
    struct = struct_of(Object("semaphore", min(it.count, COUNT_MAX), COUNT_MAX))
    before = bytes_of(struct)
    assert lib.ss_object_semaphore_release(struct, n) < 0
    assert bytes_of(struct) == before


@given(it=objects())
def test_nobody_releases_or_kills_a_mutex_that_has_no_owner(it: Object) -> None:
    struct = struct_of(Object("mutex", 0, abandoned=it.abandoned))
    before = bytes_of(struct)
    for change in (lib.ss_object_mutex_unlock, lib.ss_object_mutex_kill):
        assert change(struct, 0) == -errno.EINVAL
        assert change(struct, 1) == -errno.EPERM
    assert bytes_of(struct) == before
