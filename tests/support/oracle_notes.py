"""What tests/data/wine-oracle.jsonl does not say about its scenarios.

The recording left out what happened between its steps (which handles were in an array, what a
second process did); ``BEFORE`` and ``MEANS`` say that, in the same language. ``OURS`` has the
answers that differ from the wineserver's because the API follows ntsync with NT's argument checks.
``NEEDS`` is what an engine must promise for a scenario, ``NOT_RUN`` why a scenario is not run at
all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from shmsync.engine import Semantics

from .oracle import NT, WIN32, Interpreter

BAD_ARGUMENT = "WAIT_FAILED err=" + WIN32["argument"]
M_FREE = "count=1 owned_by_caller=0 abandoned=1"
M_TAKEN = "count=0 owned_by_caller=0 abandoned=0"

#: scenario -> step number -> steps that happened just before it. "step -> answer" is checked.
BEFORE: dict[str, dict[int, list[str]]] = {
    "mut.abandoned_wait_all_among_several": {5: ["h = {e,m,s}"]},
    "mut.abandoned_wait_all_timeout_keeps_flag": {4: ["h = {m,e}"]},
    "mut.owner_closes_handle_while_owning": {3: ["CloseHandle(m)"]},
    "wait.count_limits": {
        0: [f"h{i} = MANU({int(i == 63)})" for i in range(65)]
        + ["h = {" + ",".join(f"h{i}" for i in range(65)) + "}"]
    },
    "wait.any_mixed_types_consumes_one": {3: ["h = {m,s,e}"], 10: ["h = {s,m,e}"]},
    "wait.all_mixed_types_consumes_each": {4: ["h = {m,s,e,f}"], 10: ["SetEvent(e)"]},
    "wait.all_timeout_consumes_nothing": {4: ["h = {m,s,e,f}"]},
    "wait.all_own_mutex_recursive": {2: ["h = {m,e}"]},
    "wait.dup_any_same_handle": {1: ["h = {s,s,s}"]},
    "wait.dup_any_mutex_one_recursion": {1: ["h = {m,m}"]},
    "wait.dup_all_manual_event": {1: ["h = {e,e}"], 3: ["ResetEvent(e)"]},
    "wait.dup_all_two_handles_same_object": {1: ["DuplicateHandle(p,e,p,&f,0,0,0)", "h = {e,f}"]},
    "wait.invalid_handle_among_valid": {
        1: ["h = {e,(HANDLE)0xdead0}"],
        3: ["h = {(HANDLE)0xdead0,e}"],
    },
    "wait.close_while_other_waits": {2: ["DuplicateHandle(p,e,p,&f,0,0,0)"]},
    "saw.event_to_event": {5: ["ResetEvent(f)"]},
    "saw.mutex_recursive_one_level": {2: ["WaitForSingleObject(m,0) -> WAIT_OBJECT_0+0"]},
    "apc.pending_vs_signaled_object": {1: ["QueueUserAPC(main)"]},
    "apc.non_alertable_ignores": {1: ["QueueUserAPC(main)"]},
    "apc.interrupted_waiter_loses_position": {3: ["QueueUserAPC(A)"]},
    "apc.non_alertable_blocked_not_woken": {2: ["QueueUserAPC(A)"]},
    "apc.wait_any_multi_alertable_signaled": {2: ["h = {e,f}", "QueueUserAPC(main)"]},
    "name.lifetime_blocked_waiter_without_handle": {2: ["CloseHandle(a)"]},
    "proc.abandoned_wakes_queued_waiter": {
        1: ['P: m = OpenMutexW(M,FALSE,nm("p4"))', "P: WaitForSingleObject(m,0)"]
    },
    "proc.killed_waiter_is_skipped_fifo": {
        1: [
            'P: e = OpenEventW(E,FALSE,nm("p5"))',
            "P: WaitForSingleObject(e, INFINITE) -> (blocked)",
        ]
    },
    "proc.fifo_across_processes": {
        1: [
            'P: s = OpenSemaphoreW(S,FALSE,nm("p6"))',
            "P: WaitForSingleObject(s, INFINITE) -> (blocked)",
        ],
        2: [
            'Q: s = OpenSemaphoreW(S,FALSE,nm("p6"))',
            "Q: WaitForSingleObject(s, INFINITE) -> (blocked)",
        ],
    },
    "proc.kept_open_by_other_process": {
        1: ['P: s = OpenSemaphoreW(S,FALSE,nm("p7"))', "CloseHandle(s)"],
        4: ["CloseHandle(s)"],
    },
    "proc.wait_all_across_processes": {
        2: [
            'P: e = OpenEventW(E,FALSE,nm("p9"))',
            'P: m = OpenMutexW(M,FALSE,nm("p9b"))',
            "P: WaitForMultipleObjects(2,{e,m},ALL,INFINITE) -> (blocked)",
        ],
        6: ["P: process returns"],
    },
    "danger.dup_all_semaphore_count2": {1: ["h = {s,s}"]},
}

#: scenario -> number of a step that is not a call -> what it stands for; the last one gives the
#: answer.
MEANS: dict[str, dict[int, list[str]]] = {
    "wait.count_limits": {7: [";".join(f"SetEvent(h{i})" for i in range(64))]},
    "apc.wakes_blocked_waiter": {2: ["QueueUserAPC(A,7)"]},
    "proc.mutex_excludes_across_processes": {
        1: ['P: m = OpenMutexW(M,FALSE,nm("p1"))', "P: WaitForSingleObject(m,0)", "ok"],
        5: ["P: ReleaseMutex(m)", "P: process returns"],
    },
    "proc.abandoned_wakes_queued_waiter": {3: ["exit code 1"]},
    "proc.killed_waiter_is_skipped_fifo": {3: ["exit code 1"]},
    "proc.fifo_across_processes": {3: ["P?"], 8: ["Q?"]},
    "proc.kept_open_by_other_process": {3: ["P: process returns"]},
    "proc.wait_all_across_processes": {5: ["P?"]},
}

#: scenario -> step number -> what we answer instead; several where the order is left open.
OURS: dict[str, dict[int, tuple[str, ...]]] = {
    # NT writes the previous state only on success.
    "mut.basic_counts": {13: (NT["owner"] + " prev=untouched",)},
    # Which of a dead thread's mutexes is abandoned first is not specified.
    "mut.abandoned_two_mutexes_order": {
        6: ("WAIT_ABANDONED_0+0", "WAIT_ABANDONED_0+1"),
        7: (M_FREE, M_TAKEN),
        8: (M_FREE, M_TAKEN),
    },
    # ntsync, and NT: the same object twice in a wait-all is an error.
    "wait.dup_all_manual_event": {
        1: (BAD_ARGUMENT,),
        2: (NT["duplicate"],),
        3: (BAD_ARGUMENT,),
    },
    "wait.dup_all_two_handles_same_object": {1: (BAD_ARGUMENT,), 2: ("type=auto state=1",)},
    "danger.dup_all_semaphore_count2": {1: (BAD_ARGUMENT,), 2: ("count=2 max=2",)},
    # A name of another kind: NT itself changed its mind about which error that is.
    "name.type_clash": {
        7: (NT["exists"] + " no-handle", NT["kind"] + " no-handle"),
    },
}

#: scenario -> steps that cannot be said in the API.
LEFT_OUT: dict[str, dict[int, str]] = {
    "wait.count_limits": {10: "a list of 2^31 handles"},
    "name.case_sensitivity": {4: "a lookup that ignores case"},
}

#: What the answers need of an engine.
NEEDS: dict[str, Semantics] = {
    "sem.fifo.one_at_a_time": Semantics.FIFO,
    "sem.release_n_wakes_n": Semantics.FIFO,
    "sem.rewait_goes_to_tail": Semantics.FIFO,
    "mut.abandoned_with_queue_first_waiter_told": Semantics.FIFO,
    "mut.abandoned_wait_all_among_several": Semantics.ABANDONED_IN_WAIT_ALL,
    "mut.abandoned_wait_all_blocked_two_mutexes": Semantics.ABANDONED_IN_WAIT_ALL,
    "mut.abandoned_wait_all_timeout_keeps_flag": Semantics.TIMEOUT_HONOURED,
    "evt.auto_set_twice_back_to_back_two_waiters": Semantics.NO_BARGING,
    "evt.manual_set_then_reset_at_once_wakes_all": Semantics.EXACT_PULSE,
    "evt.pulse_manual_1_waiter": Semantics.EXACT_PULSE,
    "evt.pulse_manual_3_waiters": Semantics.EXACT_PULSE,
    "evt.pulse_wait_all_other_signaled": Semantics.EXACT_PULSE | Semantics.ATOMIC_WAIT_ALL,
    "evt.pulse_wait_all_other_not_signaled": Semantics.EXACT_PULSE,
    "evt.pulse_two_events_in_turn_wait_all": Semantics.EXACT_PULSE | Semantics.ATOMIC_WAIT_ALL,
    "evt.set_from_wait_any_waiter_with_two": Semantics.NO_BARGING,
    "compete.all_first_then_any_auto_event": Semantics.FIFO,
    "compete.all_handoff_no_barging": Semantics.NO_BARGING,
    "compete.two_alls_fifo": Semantics.FIFO,
    "compete.manual_event_wakes_any_and_all": Semantics.FIFO,
    "compete.release2_same_sem_needed_once_each_other_sem_1": Semantics.FIFO,
    "compete.mutex_release_any_vs_all": Semantics.FIFO,
    "compete.wait_any_two_sems_queue_position_kept_per_object": Semantics.FIFO,
    "apc.pending_vs_signaled_object": Semantics.ALERT_LAST,
    "apc.interrupted_waiter_loses_position": Semantics.FIFO,
    "apc.wait_any_multi_alertable_signaled": Semantics.ALERT_LAST,
    "apc.set_then_apc_race_object_first": Semantics.ALERT_LAST | Semantics.NO_BARGING,
    "proc.fifo_across_processes": Semantics.FIFO,
    "wait.all_mixed_types_consumes_each": Semantics.OWN_MUTEX_IN_WAIT_ALL,
    "wait.all_own_mutex_recursive": Semantics.OWN_MUTEX_IN_WAIT_ALL,
}

#: Of those: one thread alone shows what is missing, every time, on these engines.
SHOWS: dict[str, tuple[str, ...]] = {
    "mut.abandoned_wait_all_among_several": ("fsync",),
    "apc.pending_vs_signaled_object": ("fsync",),
    "apc.wait_any_multi_alertable_signaled": ("fsync",),
}

#: Why a scenario is not run.
NOT_RUN: dict[str, str] = {
    "sem.query.errors": "information classes, and calls on a handle of another kind: no such calls",
    "evt.create_bad_type_and_query_errors": "types and information classes: no such arguments",
    "wait.timeout_kinds": "absolute system times: the API has relative times only",
    "wait.bad_wait_type": "types of waits other than any and all: two functions, no such argument",
    "wait.access_rights": "handles have no access rights",
    "wait.pseudo_and_thread_handles": "threads and processes are no objects of ours",
    "name.lifetime_owned_mutex_without_handle": (
        "contradicts the design: an owned mutex lives without a handle (test_lifetime.py)"
    ),
    "name.long_and_empty": "names have 1 to 200 bytes here",
    "proc.wait_on_process_handle_with_others": "processes are no objects of ours",
    "tmr.auto_and_manual": "no timers",
    "danger.dup_all_semaphore_count1.server": "a crash of the wineserver",
}

#: Scenarios about names and handles, which the model does not have.
NOT_FOR_THE_MODEL = {
    "wait.invalid_handle_among_valid",
    "saw.invalid_handles",
    "proc.kept_open_by_other_process",
    "name.create_existing_semaphore",
    "name.create_existing_mutex_owned_by_self_not_recursed",
    "name.create_existing_event_params_ignored",
    "name.type_clash",
    "name.nt_collision",
    "name.case_sensitivity",
    "name.lifetime_blocked_waiter_without_handle",
}


@dataclass(frozen=True)
class Scenario:
    """One line of the oracle."""

    case: str
    steps: list[str]
    results: list[str]

    def __str__(self) -> str:
        return self.case

    def numbered_steps(self) -> list[tuple[int | None, str, str]]:
        """All steps, hidden ones too: number (None: hidden), step, recorded answer (empty: any)."""
        found: list[tuple[int | None, str, str]] = []
        for number, (step, answer) in enumerate(zip(self.steps, self.results, strict=True)):
            for hidden in BEFORE.get(self.case, {}).get(number, []):
                text, _, hidden_answer = hidden.partition(" -> ")
                found.append((None, text, hidden_answer))
            *before, last = MEANS.get(self.case, {}).get(number, [step])
            found += [(None, text, "") for text in before]
            if number not in LEFT_OUT.get(self.case, {}):
                found.append((number, last, answer))
        return found

    def letters(self) -> set[str]:
        """The letters of all threads and processes but the main one."""
        steps = [step for _, step, _ in self.numbered_steps()]
        return {found[1] for step in steps if (found := re.match(r"([A-Z])[:?]", step))}

    def replay(self, interpreter: Interpreter) -> None:
        """Runs all steps; fails at the first answer that is not one of those expected."""
        for number, step, recorded in self.numbered_steps():
            expected: tuple[str, ...] = (recorded,)
            if number is not None:
                expected = OURS.get(self.case, {}).get(number, expected)
            answer = interpreter.run(step, expected)
            if recorded:
                where = f"{self.case}, step {number or 'before the next'}: {step}"
                assert answer in expected, f"{where} gave {answer!r}, not {' or '.join(expected)!r}"
            else:
                assert not answer.startswith(("NULL", "FALSE", "WAIT_FAILED")), f"{step}: {answer}"


def scenarios() -> list[Scenario]:
    """All scenarios of the oracle, those that are not run too."""
    lines = (Path(__file__).parents[1] / "data" / "wine-oracle.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [Scenario(entry["case"], entry["steps"], entry["results"]) for entry in entries]
