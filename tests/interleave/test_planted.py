"""Faults planted in the protocol of ``handoff``: the explorer finds each of them, in a program of
two to four threads."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ..mending.mends import Mend
from ..mending.workshop import Workshop
from .planted import planted_explored

ENGINE = "engine_handoff.c"


@dataclass(frozen=True)
class Fault:
    """A change that breaks the protocol, and the program whose exploration shows it, with so many
    kills, and so many times that somebody cannot get the gate; ``preemptions``: with at most so
    many, where the order of the full search comes to it late."""

    program: str
    kills: int
    change: Mend
    slices: int = 0
    preemptions: int | None = None


def fault(
    program: str,
    kills: int,
    old: str,
    new: str,
    *,
    file: str = ENGINE,
    slices: int = 0,
    preemptions: int | None = None,
) -> Fault:
    """A fault of one change."""
    return Fault(program, kills, Mend("planted", ((old, new),), file), slices, preemptions)


PLANTED = {
    "a commit before its write": fault(
        "waiter_and_two_releases",
        1,
        """\
    write_state(slow->ns, object, &state);
    undo_commit(slow->ns);
    rc = settle(slow, object);
    return rc < 0 ? rc : result;
""",
        """\
    undo_commit(slow->ns);
    write_state(slow->ns, object, &state);
    rc = settle(slow, object);
    return rc < 0 ? rc : result;
""",
    ),
    "a result published before the commit": fault(
        "hand_over_to_one_who_ends",
        1,
        "    undo_commit(ns);\n    publish(slow, place.slot);\n",
        "    publish(slow, place.slot);\n    undo_commit(ns);\n",
    ),
    "a missing undo entry": fault(
        "all_against_any_of_a_shared_object",
        1,
        "    undo_write64(ns, &object->word, pack(state) | flags);\n",
        "    (void)ns;\n    store64_release(&object->word, pack(state) | flags);\n",
    ),
    "an object given free before the decision": fault(
        "any_and_polls_against_ordered_sets",
        0,
        "        if (!is_signaled_for(wait->objects[i], wait->self->id))\n            continue;\n",
        "        if (!is_signaled_for(wait->objects[i], wait->self->id)) {\n"
        "            give_free(wait->objects[i]);\n            continue;\n        }\n",
    ),
    "an object given free before the commit": fault(
        "taken_behind_the_gate",
        1,
        "            wait->abandoned |= 1ull << i;\n    }\n    undo_commit(wait->ns);\n",
        "            wait->abandoned |= 1ull << i;\n        give_free(wait->objects[i]);\n    }\n"
        "    undo_commit(wait->ns);\n",
    ),
    "a reap that forgets a queue": fault(
        "all_against_any_of_a_shared_object",
        1,
        "    for (uint32_t i = 0; i < load32_relaxed(&thread->wait_count); i++)\n"
        "        unlink_entry(",
        "    for (uint32_t i = 1; i < load32_relaxed(&thread->wait_count); i++)\n"
        "        unlink_entry(",
    ),
    "a queue flag that is not set": fault(
        "set_against_waiter",
        0,
        "queued ? word | QUEUED : word);",
        "queued ? word : word);",
    ),
    "a wake that is left out": fault(
        "waiter_and_two_releases",
        0,
        "    gate_unlock(slow->ns);\n    wake_served(slow);\n",
        "    gate_unlock(slow->ns);\n    slow->served_count = 0;\n",
    ),
    "a fast path that ignores a captured word": fault(
        "waiter_and_two_releases",
        0,
        "#define FLAGS (CAPTURED | QUEUED | ABANDONED)",
        "#define FLAGS (QUEUED | ABANDONED)",
        file="handoff.h",
    ),
    "a release that wakes nobody who sleeps for an unfair mutex": fault(
        "bargers",
        0,
        "    if (result == 1)\n        wake_barger(object);\n",
        "",
    ),
    "who was woken for an unfair mutex forgets those who sleep on": fault(
        "bargers",
        0,
        "    if (sleeps > 0)\n        store32_release(&object->bargers, 1);\n",
        "",
        preemptions=2,
    ),
    "a sleep for an unfair mutex that is announced after the look": fault(
        "bargers",
        0,
        """\
        (void)swap32_acq_rel(&object->bargers, 1); /* before the look: a release then wakes us */
        rc = try_first(wait);
        if (rc != -EAGAIN)
            break;
""",
        """\
        rc = try_first(wait);
        if (rc != -EAGAIN)
            break;
        (void)swap32_acq_rel(&object->bargers, 1);
""",
    ),
    "wait-any served before wait-all": fault(
        "wait_all_before_wait_any",
        0,
        """\
        rc = serve_first(slow, object, &object->all, true);
        if (rc == 0)
            rc = serve_first(slow, object, &object->any, false);
""",
        """\
        rc = serve_first(slow, object, &object->any, false);
        if (rc == 0)
            rc = serve_first(slow, object, &object->all, true);
""",
    ),
    "a pulse whose intention is not recorded": fault(
        "pulse_against_waiter",
        1,
        "                 segment_link(segment_object_index(slow->ns, object)));",
        "                 0);",
    ),
    "a recovery that settles nothing": fault(
        "set_against_waiter",
        1,
        "            rc = settle(&slow, segment_object(ns, i));\n",
        "            rc = 0;\n",
    ),
    "a recovery that publishes nothing": fault(
        "set_against_waiter",
        1,
        "== SS_SLOT_USED)\n            publish(&slow, slot);\n",
        "== SS_SLOT_USED)\n            rc = 0;\n",
    ),
    "a look that does not recover": fault(
        "set_against_waiter",
        1,
        "        rc = look_again(wait);\n",
        "        rc = 0;\n        (void)look_again;\n",
    ),
    "an owner who is not asked for a sign of life": fault(
        "timeout_against_hand_over",
        1,
        "state.owner == 0 || owner_is_alive(ns, state.owner))\n",
        "state.owner == 0 || state.owner != 0)\n",
    ),
    "a waiter who is not asked for a sign of life": fault(
        "hand_over_to_one_who_ends",
        1,
        "    if (!owner_slot_is_alive(ns, place.slot))\n        return 1;\n",
        "",
    ),
    "a reset that does not ask for dead owners": fault(
        "reset_after_a_death",
        1,
        "    int rc = change->what == KILL ? 0 : ",
        "    int rc = change->what == KILL || change->what == RESET ? 0 : ",
    ),
    "a poll that does not ask for the dead owners of others": fault(
        "poll_after_a_death",
        1,
        "            rc = abandon_for_waiters(wait->ns, wait->objects[i]);\n",
        "            rc = 0;\n",
    ),
    "owners who are asked before the objects are captured": fault(
        "set_after_a_death",
        1,
        "        capture(slow, wait->objects[i]);\n    if (wait->alert != NULL)",
        "        (void)slow;\n    if (wait->alert != NULL)",
    ),
    "an abandoned mutex that is not settled": fault(
        "abandoned_in_a_wait_all",
        1,
        """\
    capture(&slow, object);
    result = change_captured(&slow, object, change);
    give_captured_free(&slow);
""",
        """\
    struct ss_state state;

    capture(&slow, object);
    state = held_state(object);
    result = apply(change, &state);
    if (result >= 0)
        write_state(ns, object, &state);
    undo_commit(ns);
    give_captured_free(&slow);
""",
    ),
    "a token for one who has gone away that is not put back": fault(
        "set_against_timeout",
        0,
        "        take_back(slow->ns, slot, result);\n",
        "        (void)take_back;\n",
        slices=2,
    ),
    "one who has gone away and stays in his queue": fault(
        "timeout_and_a_second_wait",
        0,
        "        rc = remove_gone(wait->ns, wait->self->slot);\n",
        "        rc = 0;\n",
        slices=2,
    ),
    "a recovery that forgets the first entry of the log": fault(
        "all_against_any_of_a_shared_object",
        1,
        "    while (length > 0) {",
        "    while (length > 1) {",
        file="gate.c",
    ),
}


@pytest.mark.seconds(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_in_the_protocol_is_found(workshop: Workshop, name: str) -> None:
    planted = PLANTED[name]
    module = workshop.build(name.replace(" ", "-"), planted.change)
    found = planted_explored(
        module,
        "handoff",
        planted.program,
        kills=planted.kills,
        slices=planted.slices,
        preemptions=planted.preemptions,
        schedules_max=30_000,
    )
    assert found["failures"], f"{name}: not found in {found['schedules']} schedules"
    print(f"{name}: {found['failures']} of {len(found['endings'])} endings wrong")
    print(found["first"])
