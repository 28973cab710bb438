"""Which line of an engine is at fault for a failure, and what mends it.

A mend is as small as it can be while the observation of the failure's scenario becomes false for
the right reason. It shows that the scenario tests what it says, not how to write a better engine:
most of them leave the failures beside them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """Changes to a file in ``native/``: pairs of a text that is there once and what replaces it.
    ``why`` says why that is the fault."""

    why: str
    changes: tuple[tuple[str, str], ...]
    file: str = "engine_fsync.c"

    def apply(self, source: str) -> str:
        """The source, mended."""
        for old, new in self.changes:
            assert source.count(old) == 1, f"{self.file} has this {source.count(old)} times:\n{old}"
            source = source.replace(old, new)
        return source


MENDS: dict[int, Mend] = {}

#: Every object is tried where it was, by a compare-and-swap that changes nothing; all of the taking
#: belongs to the last of these steps, since what follows a step is part of it in the traced build.
#: It stands for what a lock around everything would give, or the kernel.
IN_ONE_STEP = (
    (
        """\
static bool grab_all(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (!grab(wait, i)) {
            roll_back(wait, i);
            return false;
        }
    }
    return true;
}
""",
        """\
static void take(struct wait *wait, uint32_t i)
{
    struct object *object = wait->objects[i];

    if (wait->kinds[i] == SS_MUTEX) {
        if (object->word0.word_ == ABANDONED)
            wait->abandoned |= 1ull << i;
        object->word0.word_ = wait->self->id;
    } else if (wait->kinds[i] != SS_MANUAL_EVENT) {
        object->word0.word_--;
    }
}

static bool grab_all(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (wait->kinds[i] != SS_MANUAL_EVENT)
            cas32_acq_rel(&wait->objects[i]->word0, 0, 0);
    }
    for (uint32_t i = 0; i < wait->count; i++) {
        uint32_t found = wait->objects[i]->word0.word_;

        if (wait->kinds[i] == SS_MUTEX && (found == ABANDONED || found == wait->self->id))
            continue;
        if ((wait->kinds[i] == SS_MUTEX) != (found == 0))
            return false;
    }
    for (uint32_t i = 0; i < wait->count; i++)
        take(wait, i);
    return true;
}
""",
    ),
    # Nothing is left that calls these two.
    (
        "static bool grab(struct wait *wait, uint32_t i)\n{\n",
        "__attribute__((unused)) static bool grab(struct wait *wait, uint32_t i)\n{\n",
    ),
    (
        "static void roll_back(struct wait *wait, uint32_t grabbed)\n{\n",
        "__attribute__((unused)) static void roll_back(struct wait *wait, uint32_t grabbed)\n{\n",
    ),
)

MENDS[1] = Mend(
    "A wait-all takes its objects one after the other, in words that everybody reads.", IN_ONE_STEP
)

MENDS[2] = Mend(
    "The roll back signals an object and wakes nobody.",
    (
        (
            "        default:\n            break;\n        }\n    }\n    wait->abandoned = 0;\n",
            "        default:\n            break;\n        }\n        wake_everybody(object);\n"
            "    }\n    wait->abandoned = 0;\n",
        ),
    ),
)

MENDS[3] = Mend(
    "The roll back frees every mutex. One that is counted already was the caller's before.",
    (
        (
            "            store32_release(&object->word0, 0); /* F3",
            "            if (load32_relaxed(&object->word1) == 0)\n"
            "                store32_release(&object->word0, 0); /* F3",
        ),
    ),
)

MENDS[4] = Mend(
    "The roll back puts back a free mutex, whatever it was.",
    (
        (
            "            store32_release(&object->word0, 0); /* F3",
            "            store32_release(&object->word0,"
            " wait->abandoned >> grabbed & 1 ? ABANDONED : 0); /* F3",
        ),
    ),
)

MENDS[5] = Mend(
    "What was taken and is to be put back cannot be told from what was reset meanwhile.",
    IN_ONE_STEP,
)

MENDS[6] = Mend(
    "The roll back adds to a semaphore without regard to its maximum.",
    (
        (
            "            } while (cas32_acq_rel(&object->word0, count, count + 1) != count);",
            "            } while (count < load32_relaxed(&object->word1) &&\n"
            "                     cas32_acq_rel(&object->word0, count, count + 1) != count);",
        ),
    ),
)

MENDS[7] = Mend(
    "The roll back stores over whatever the mutex's word has become.",
    (
        (
            "            store32_release(&object->word0, 0); /* F3",
            "            cas32_acq_rel(&object->word0, wait->self->id, 0); /* F3",
        ),
    ),
)

ABANDONED_IS_FREE = Mend(
    "Phase 1 takes an abandoned mutex for an owned one. (Whether it sleeps for that, F10, or spins,"
    " F11, is up to the kernel.)",
    (
        (
            "    return found == 0 || found == wait->self->id;\n",
            "    return found == 0 || found == ABANDONED || found == wait->self->id;\n",
        ),
    ),
)
MENDS[10] = ABANDONED_IS_FREE
MENDS[11] = ABANDONED_IS_FREE

# The sleeps of a wait-any and of a wait-all.
AFTER_A_SLEEP = "        rc = sleep_on(wait, sleeps, wait->count, &busy_since_ns);\n"
AFTER_A_SLEEP_FOR_ALL = "            rc = sleep_on(wait, sleeps, 1, busy_since_ns);\n"

A_TICKET = Mend(
    "A set tells nobody that it happened but by the word, which may be reset before anybody looks."
    " Here it leaves a ticket for the one that it wakes, and signals only if nobody sleeps. Who"
    " waits for one object takes the ticket for it; who waits for several puts the signal up again"
    " for his own look.",
    (
        (
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0) /* F36""",
            """\
    uint32_t previous = load32_acquire(&object->word0);

    if (load32_relaxed(&object->kind) == SS_AUTO_EVENT && previous == 0 &&
        futex_wake(&object->word0, 1) > 0) {
        store32_release(&object->word1, 1);
        return 0;
    }
    previous = swap32_acq_rel(&object->word0, 1);
    if (previous == 0) /* F36""",
        ),
        (
            AFTER_A_SLEEP,
            AFTER_A_SLEEP
            + """\
        for (uint32_t i = 0; rc == 0 && i < wait->count; i++) {
            if (wait->kinds[i] == SS_AUTO_EVENT &&
                cas32_acq_rel(&wait->objects[i]->word1, 1, 0) == 1) {
                wait->index = i;
                return 0;
            }
        }
""",
        ),
        (
            AFTER_A_SLEEP_FOR_ALL,
            """\
            rc = sleep_on(wait, sleeps, 1, busy_since_ns);
            if (wait->kinds[i] == SS_AUTO_EVENT &&
                cas32_acq_rel(&wait->objects[i]->word1, 1, 0) == 1)
                store32_release(&wait->objects[i]->word0, 1);
""",
        ),
    ),
)
MENDS[13] = A_TICKET

MENDS[14] = Mend(
    "Each takes the objects in the order of its own call. In one order for all, the second waits"
    " for the first.",
    (
        (
            """\
static bool grab_all(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (!grab(wait, i)) {
            roll_back(wait, i);
            return false;
        }
    }
    return true;
}
""",
            """\
static uint32_t nth(const struct wait *wait, uint32_t n)
{
    uint32_t i = 0;

    for (; i + 1 < wait->count; i++) {
        uint32_t below = 0;

        for (uint32_t other = 0; other < wait->count; other++)
            below += wait->objects[other] < wait->objects[i];
        if (below == n)
            break;
    }
    return i;
}

static bool grab_all(struct wait *wait)
{
    struct wait sorted = *wait;
    uint32_t i = 0;

    for (uint32_t n = 0; n < wait->count; n++) {
        sorted.objects[n] = wait->objects[nth(wait, n)];
        sorted.kinds[n] = wait->kinds[nth(wait, n)];
    }
    while (i < wait->count && grab(&sorted, i))
        i++;
    if (i < wait->count)
        roll_back(&sorted, i);
    wait->abandoned = sorted.abandoned;
    return i == wait->count;
}
""",
        ),
    ),
)

MENDS[15] = Mend(
    "The loop that tries again looks at the clock, but not at the deadline.",
    (
        (
            "        start_clock(&busy_since_ns);\n"
            "        if (clock_now_ns() - busy_since_ns > BUSY_LIMIT_NS)",
            "        if (wait->deadline_ns <= clock_now_ns())\n"
            "            return -ETIMEDOUT;\n"
            "        start_clock(&busy_since_ns);\n"
            "        if (clock_now_ns() - busy_since_ns > BUSY_LIMIT_NS)",
        ),
    ),
)

MENDS[16] = Mend(
    "A read believes a count that is not written yet; who owns it owns it once at least.",
    (
        (
            "        state->count = state->abandoned ? 0 : word1;\n",
            "        state->count = state->owner != 0 && word1 == 0 ? 1 : state->abandoned ? 0"
            " : word1;\n",
        ),
    ),
)

MENDS[17] = Mend(
    "Between the look at all of them and the last that is taken anything can happen to those that"
    " were taken or, if manual-reset, only looked at.",
    IN_ONE_STEP,
)

#: A pulse does not signal: it counts. Who wakes and finds a manual-reset event's count changed was
#: there when it was pulsed.
COUNTED_PULSE = Mend(
    "A pulse is a signal that stays for a while: those who wait may look too late, and those who"
    " come may look in time.",
    (
        (
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 0);

    store32_release(&object->word1, load32_relaxed(&object->word1) + (previous == 0));
    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
        ),
        ("    store32_release(&object->word0, 0); /* F20", "    /* F20"),
        (
            "    uint64_t busy_since_ns = 0;\n    int rc;\n\n    do {\n",
            "    uint64_t busy_since_ns = 0;\n    uint32_t pulses[SS_WAIT_MAX];\n    int rc;\n\n"
            "    do {\n"
            "        for (uint32_t i = 0; i < wait->count; i++)\n"
            "            pulses[i] = load32_acquire(&wait->objects[i]->word1);\n",
        ),
        (
            AFTER_A_SLEEP,
            AFTER_A_SLEEP
            + """\
        for (uint32_t i = 0; rc == 0 && i < wait->count; i++) {
            if (wait->kinds[i] == SS_MANUAL_EVENT &&
                load32_acquire(&wait->objects[i]->word1) != pulses[i]) {
                wait->index = i;
                return 0;
            }
        }
""",
        ),
    ),
)
MENDS[18] = COUNTED_PULSE
MENDS[19] = COUNTED_PULSE

MENDS[20] = Mend(
    "The reset at the end of a pulse does not tell the pulse's own signal from a set that came"
    " later.",
    (
        (
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 2);

    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
        ),
        (
            "    store32_release(&object->word0, 0); /* F20",
            "    cas32_acq_rel(&object->word0, 2, 0); /* F20",
        ),
    ),
)

MENDS[22] = Mend(
    "A wait-all looks a second time at what it has seen available; a pulse is over by then. Here a"
    " pulse counts, and who slept through one need not look again.",
    (
        (
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
            """\
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    store32_release(&object->word1, load32_relaxed(&object->word1) + 1);
    if (previous == 0)
        wake_everybody(object);
    futex_yield()""",
        ),
        (
            "static int see_each_available(struct wait *wait, uint64_t *busy_since_ns)\n{\n",
            "static int see_each_available(struct wait *wait, uint64_t *busy_since_ns,"
            " uint64_t *pulsed)\n{\n    *pulsed = 0;\n",
        ),
        (
            """\
        while (!looks_available(wait, i, &sleeps[0].expected)) {
            if (alerted(wait))
""",
            """\
        while (!(*pulsed >> i & 1) && !looks_available(wait, i, &sleeps[0].expected)) {
            uint32_t pulses = load32_acquire(&wait->objects[i]->word1);

            if (alerted(wait))
""",
        ),
        (
            AFTER_A_SLEEP_FOR_ALL,
            """\
            rc = sleep_on(wait, sleeps, 1, busy_since_ns);
            if (wait->kinds[i] == SS_MANUAL_EVENT)
                *pulsed |= (uint64_t)(load32_acquire(&wait->objects[i]->word1) != pulses) << i;
""",
        ),
        (
            "static bool see_all_available(struct wait *wait)\n",
            "static bool see_all_available(struct wait *wait, uint64_t pulsed)\n",
        ),
        (
            "        if (!looks_available(wait, i, &expected))\n",
            "        if (!(pulsed >> i & 1) && !looks_available(wait, i, &expected))\n",
        ),
        (
            "        int rc = see_each_available(wait, &busy_since_ns);\n",
            "        uint64_t pulsed;\n"
            "        int rc = see_each_available(wait, &busy_since_ns, &pulsed);\n",
        ),
        (
            "        if (see_all_available(wait) && grab_all(wait)) {\n",
            "        if (see_all_available(wait, pulsed) && grab_all(wait)) {\n",
        ),
    ),
)

MENDS[23] = A_TICKET

MENDS[26] = Mend(
    "A released mutex is anybody's. Here it is promised to one who slept for it, and free only if"
    " nobody did.",
    (
        (
            "        store32_release(&object->word0, 0);\n        wake_everybody(object); /* F37",
            """\
        store32_release(&object->word0, PROMISED);
        if (futex_wake(&object->word0, 1) > 0)
            return previous;
        cas32_acq_rel(&object->word0, PROMISED, 0);
        wake_everybody(object); /* F37""",
        ),
        (
            "#define ABANDONED 0xffffffffu\n",
            "#define ABANDONED 0xffffffffu\n#define PROMISED 0xfffffffeu\n",
        ),
        (
            AFTER_A_SLEEP,
            AFTER_A_SLEEP
            + """\
        for (uint32_t i = 0; rc == 0 && i < wait->count; i++) {
            if (wait->kinds[i] == SS_MUTEX &&
                cas32_acq_rel(&wait->objects[i]->word0, PROMISED, wait->self->id) == PROMISED) {
                store32_relaxed(&wait->objects[i]->word1, 1);
                wait->index = i;
                return 0;
            }
        }
""",
        ),
        (
            AFTER_A_SLEEP_FOR_ALL,
            AFTER_A_SLEEP_FOR_ALL
            + """\
            if (wait->kinds[i] == SS_MUTEX)
                cas32_acq_rel(&wait->objects[i]->word0, PROMISED, 0);
""",
        ),
    ),
)

WAKE_AS_MANY_AS_TOKENS = Mend(
    "A release wakes everybody, and whoever runs first gets the token. Waking as many as there are"
    " tokens, longest sleepers first, mends that (and brings F29).",
    (
        (
            "previous + count) != previous);\n    wake_everybody(object);\n",
            "previous + count) != previous);\n    futex_wake(&object->word0, (int)count);\n",
        ),
    ),
)
MENDS[27] = WAKE_AS_MANY_AS_TOKENS
MENDS[28] = WAKE_AS_MANY_AS_TOKENS

MENDS[31] = Mend(
    "A compare-and-swap that fails has found another count, not none; it is not tried again.",
    (
        (
            """\
    *expected = 0;
    return count != 0 && cas32_acq_rel(&object->word0, count, count - 1) == count; /* F31""",
            """\
    *expected = 0;
    while (count != 0) {
        uint32_t found = cas32_acq_rel(&object->word0, count, count - 1);

        if (found == count)
            return true;
        count = found;
    }
    return false; /* F31""",
        ),
    ),
)

MENDS[32] = Mend(
    "When the time is up nobody looks at the objects again. As a poll, the same loop does.",
    (
        (
            "    if (rc == -ETIMEDOUT || rc == -EINTR)\n        return rc; /* F32",
            "    if (rc == -ETIMEDOUT)\n        return (int)(wait->deadline_ns = 0);\n"
            "    if (rc == -EINTR)\n        return rc; /* F32",
        ),
    ),
)

MENDS[33] = Mend(
    "The alert is tried before the objects.",
    (
        (
            "        if (alerted(wait)) /* F33: before the objects */\n            return 0;\n",
            "",
        ),
        (
            AFTER_A_SLEEP,
            "        if (alerted(wait))\n            return 0;\n" + AFTER_A_SLEEP,
        ),
    ),
)

MENDS[36] = Mend(
    "A set wakes only if it finds the event clear, as if whoever set it before had got so far.",
    (("    if (previous == 0) /* F36", "    if (true) /* F36"),),
)

MENDS[37] = Mend(
    "The sweep leaves alone what the dead thread no longer owned, though it had not woken anybody.",
    (
        (
            """\
            if (state.owner == id || ns->engine->owner_is_a_hint)
                ns->engine->mutex_kill(ns, object, id);
""",
            """\
            if (state.owner == id || ns->engine->owner_is_a_hint)
                ns->engine->mutex_kill(ns, object, id);
            else if (state.owner == 0)
                futex_wake(&object->word0, INT_MAX); /* the dead one may have been about to */
""",
        ),
        (
            "/* Also frees what only the dead thread's waiting",
            '#include "futex.h"\n\n/* Also frees what only the dead thread\'s waiting',
        ),
    ),
    file="owner.c",
)

MENDS[38] = Mend(
    "The sweep goes by the owner alone; a count of 0 says that he had given the mutex up.",
    (
        (
            "    store32_release(&object->word0, ABANDONED);\n",
            "    store32_release(&object->word0, previous == 0 ? 0 : ABANDONED);\n",
        ),
    ),
)

MENDS[42] = Mend(
    "What a wait-all has taken is written down nowhere. With the undo log, whoever comes to the"
    " gate next puts it back.",
    (
        (
            """\
    if (wait->kinds[i] == SS_SEMAPHORE)
        return try_semaphore(object, &expected);
    if (wait->kinds[i] == SS_AUTO_EVENT)
        return try_event(object, SS_AUTO_EVENT, &expected);
""",
            """\
    if (wait->kinds[i] == SS_SEMAPHORE || wait->kinds[i] == SS_AUTO_EVENT) {
        expected = load32_acquire(&object->word0);
        if (expected != 0)
            undo_write32(wait->ns, &object->word0, (uint32_t)expected - 1);
        return expected != 0;
    }
""",
        ),
        (
            """\
static bool grab_all(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (!grab(wait, i)) {
            roll_back(wait, i);
            return false;
        }
    }
    return true;
}
""",
            """\
static bool grab_all(struct wait *wait)
{
    uint32_t i = 0;

    if (gate_lock(wait->ns) < 0)
        return false;
    while (i < wait->count && grab(wait, i))
        i++;
    if (i < wait->count)
        roll_back(wait, i);
    undo_commit(wait->ns);
    gate_unlock(wait->ns);
    return i == wait->count;
}
""",
        ),
    ),
)

AFTER_THE_SWEEP = Mend(
    "Nobody who takes a mutex asks whether he is still registered under the id that he writes.",
    (
        (
            """\
            if (try_object(wait, i, &sleeps[i].expected)) {
""",
            """\
            if (try_object(wait, i, &sleeps[i].expected)) {
                const struct thread_slot *me = segment_thread(wait->ns, wait->self->slot);

                if (wait->kinds[i] == SS_MUTEX &&
                    owner_id(wait->self->slot, load32_acquire(&me->generation)) != wait->self->id) {
                    fsync_mutex_kill(wait->ns, wait->objects[i], wait->self->id);
                    return -EBADMSG;
                }
""",
        ),
    ),
)
MENDS[43] = AFTER_THE_SWEEP
MENDS[44] = AFTER_THE_SWEEP

MENDS[45] = Mend(
    "The mutex can be taken before its count is cleared.",
    (
        (
            "    store32_release(&object->word0, ABANDONED);\n"
            "    store32_release(&object->word1, 0);",
            "    store32_release(&object->word1, 0);\n"
            "    store32_release(&object->word0, ABANDONED);",
        ),
    ),
)

MENDS[46] = Mend(
    "The value to sleep on is whatever was found, also the 0 of a mutex that is free.",
    (
        (
            "    *expected = found; /* F46",
            "    *expected = found != 0 ? found : ABANDONED; /* F46",
        ),
    ),
)

MENDS[53] = Mend(
    "An acquisition by the owner has no limit; and a read takes two words that need not belong"
    " together.",
    (
        (
            "    if (found == owner) {\n",
            "    if (found == owner) {\n"
            "        *expected = owner;\n"
            "        if (load32_relaxed(&object->word1) == UINT32_MAX)\n"
            "            return false;\n",
        ),
        (
            """\
    uint32_t word0 = load32_acquire(&object->word0);
    uint32_t word1 = load32_acquire(&object->word1);
""",
            """\
    uint32_t word0 = load32_acquire(&object->word0);
    uint32_t word1 = load32_acquire(&object->word1);

    while (load32_acquire(&object->word0) != word0) {
        word0 = load32_acquire(&object->word0);
        word1 = load32_acquire(&object->word1);
    }
""",
        ),
    ),
)

MENDS[54] = Mend(
    "The release returns the count as it was, as ntsync does, and not NT's SignalState (here as its"
    " 32 bits, since a negative result would be an errno).",
    (
        (
            "    }\n    return previous;\n",
            "    }\n    return (uint32_t)(1 - previous);\n",
        ),
    ),
)

#: Failures that no change of an engine's lines takes away, and why.
BY_DESIGN: dict[int, str] = {
    48: "Whoever may map the file may write to it: an engine cannot tell a stranger's store from"
    " its own. Only state in the kernel can be kept from him.",
    49: "Whoever may write to the file may truncate it: the sizes of files in /dev/shm cannot be"
    " sealed. It happens below every engine.",
    50: "An engine sees objects, not handles; and every process could write the words itself.",
    63: "The gate is below every engine, and whoever may stop a process may stop it there.",
}
