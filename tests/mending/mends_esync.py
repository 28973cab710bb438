"""Which line of esync is at fault for a failure, and what mends it: see ``mends.py``.

Many of these mends let things happen past the scheduler: what the C does to ``word_`` or to a
counter itself belongs to the step before, and nobody sees it half done. That stands for what a lock
around everything would give, or the kernel.
"""

from __future__ import annotations

from functools import partial

from .mends import Mend

_mend = partial(Mend, file="engine_esync.c")

MENDS: dict[int, Mend] = {}

#: The counter of an object, past the scheduler.
COUNTER = (
    "/* ---- taking one object ---- */\n",
    """\
static uint64_t *counter_of(const struct wait *wait, uint32_t i)
{
    return (uint64_t *)(uintptr_t)eventfd_counter(descriptor_of(wait->ns, wait->objects[i]));
}

/* ---- taking one object ---- */
""",
)

#: Every object is tried where it was, by a read that is put back at once; all of the taking belongs
#: to the last of these steps.
IN_ONE_STEP = (
    COUNTER,
    (
        """\
        if (is_mine(wait, i) || wait->kinds[i] == SS_MANUAL_EVENT || take_token(wait, i))
            continue;
        roll_back(wait, i);
        return false;
    }
    return true;
""",
        """\
        if (wait->kinds[i] != SS_MANUAL_EVENT)
            *counter_of(wait, i) += eventfd_take(descriptor_of(wait->ns, wait->objects[i]));
    }
    for (uint32_t i = 0; i < wait->count; i++) {
        bool mine = wait->kinds[i] == SS_MUTEX && wait->objects[i]->word0.word_ == wait->self->id;

        if (!mine && *counter_of(wait, i) == 0)
            return false;
    }
    for (uint32_t i = 0; i < wait->count; i++) {
        if (wait->kinds[i] == SS_SEMAPHORE)
            *counter_of(wait, i) -= 1;
        else if (wait->kinds[i] != SS_MANUAL_EVENT)
            *counter_of(wait, i) = 0;
    }
    return true;
""",
    ),
    # Nothing is left that calls it.
    ("static void roll_back(", "__attribute__((unused)) static void roll_back("),
)

MENDS[1] = _mend(
    "A wait-all reads its eventfds one after the other, and what it has read is missing to"
    " everybody.",
    IN_ONE_STEP,
)
MENDS[5] = _mend(
    "What was read and is to be put back cannot be told from what was reset meanwhile.", IN_ONE_STEP
)

TO_WHOM_IT_BELONGS = _mend(
    "The roll back writes to the object that failed, once for each index, and once more.",
    (
        (
            """\
    int fd = descriptor_of(wait->ns, wait->objects[failed]);

    for (uint32_t i = 0; i <= failed; i++)
        eventfd_add(fd, 1);
""",
            """\
    for (uint32_t i = 0; i < failed; i++) {
        if (wait->kinds[i] != SS_MANUAL_EVENT && !is_mine(wait, i))
            eventfd_add(descriptor_of(wait->ns, wait->objects[i]), 1);
    }
""",
        ),
    ),
)
MENDS[6] = TO_WHOM_IT_BELONGS
MENDS[8] = TO_WHOM_IT_BELONGS

MENDS[9] = _mend(
    "The look at all of them polls the mutexes that are the caller's, too.",
    (
        (
            """\
    struct eventfd_look looks[EVENTFD_POLL_MAX];

    for (uint32_t i = 0; i < wait->count; i++)
        looks[i].fd = descriptor_of(wait->ns, wait->objects[i]);
    return eventfd_poll(looks, wait->count, -1, 0) == (int)wait->count;
""",
            """\
    struct eventfd_look looks[EVENTFD_POLL_MAX];
    uint32_t others = 0;

    for (uint32_t i = 0; i < wait->count; i++) {
        if (!is_mine(wait, i))
            looks[others++].fd = descriptor_of(wait->ns, wait->objects[i]);
    }
    return others == 0 || eventfd_poll(looks, others, -1, 0) == (int)others;
""",
        ),
    ),
)

# The sleeps of a wait-any and of a wait-all.
A_SLEEP = """\
        rc = sleep_on(wait, looks, add_alert(wait, looks, wait->count));
"""
A_SLEEP_FOR_ALL = """\
            rc = sleep_on(wait, looks, add_alert(wait, looks, 1));
"""

#: Counts, past the scheduler, who sleeps on an object: in a word that this engine has no use for.
SLEEPERS = (
    (
        A_SLEEP,
        "        for (uint32_t i = 0; i < wait->count; i++)\n"
        "            wait->objects[i]->any.first.word_++;\n"
        + A_SLEEP
        + "        for (uint32_t i = 0; i < wait->count; i++)\n"
        "            wait->objects[i]->any.first.word_--;\n",
    ),
    (
        A_SLEEP_FOR_ALL,
        "            wait->objects[i]->any.first.word_++;\n"
        + A_SLEEP_FOR_ALL
        + "            wait->objects[i]->any.first.word_--;\n",
    ),
)

LEFT_FOR_SLEEPERS = _mend(
    "A reset takes a token that a sleeper was woken for and has not read yet. Here it leaves that.",
    (
        *SLEEPERS,
        (
            "    if (!manual || previous != 0)\n",
            "    if (manual ? previous != 0 : object->any.first.word_ == 0)\n",
        ),
    ),
)
MENDS[13] = LEFT_FOR_SLEEPERS
MENDS[23] = LEFT_FOR_SLEEPERS

MENDS[14] = _mend(
    "Each has taken a half when it looks for the other, and neither can have both.", IN_ONE_STEP
)

MENDS[15] = _mend(
    "The loop that tries again looks at the clock, but not at the deadline.",
    (
        (
            "        /* F14: two that roll back for each other go on for ever;",
            "        if (wait->deadline_ns <= clock_now_ns())\n"
            "            return -ETIMEDOUT;\n"
            "        /* F14: two that roll back for each other go on for ever;",
        ),
    ),
)

MENDS[16] = _mend(
    "A read believes a count that is not written yet; who owns it owns it once at least.",
    (
        (
            "        state->count = state->abandoned ? 0 : word1;\n",
            "        state->count = state->owner != 0 && word1 == 0 ? 1 : state->abandoned ? 0"
            " : word1;\n",
        ),
    ),
)

MENDS[17] = _mend(
    "Between the look at all of them and the last that is read anything can happen to those that"
    " were read or, if manual-reset, only looked at.",
    IN_ONE_STEP,
)

#: A pulse that is not over until all who slept have looked, and that lets nobody in meanwhile.
CLOSED_DOOR = _mend(
    "A pulse is a signal that stays for a while: those who wait may look too late, and those who"
    " come may look in time. Here it stays until all who slept have looked, and who comes waits for"
    " its end.",
    (
        *SLEEPERS,
        (
            "    eventfd_add(fd, 1); /* F21",
            "    object->any.last.word_ = 1;\n    eventfd_add(fd, 1); /* F21",
        ),
        (
            "    futex_yield();      /* F18",
            "    do\n        futex_yield();\n    while (object->any.first.word_ > 0); /* F18",
        ),
        (
            "    return eventfd_take(fd) > 1; /* F20",
            "    uint64_t taken = eventfd_take(fd);\n    object->any.last.word_ = 0;\n"
            "    return taken > 1; /* F20",
        ),
        (
            "        looks[i].fd = descriptor_of(wait->ns, wait->objects[i]);\n"
            "        if (try_object(wait, i)) {\n",
            "        looks[i].fd = descriptor_of(wait->ns, wait->objects[i]);\n"
            "        while (wait->objects[i]->any.last.word_ != 0)\n"
            "            futex_yield();\n"
            "        if (try_object(wait, i)) {\n",
        ),
    ),
)
MENDS[18] = CLOSED_DOOR
MENDS[19] = CLOSED_DOOR

MENDS[20] = _mend(
    "The read at the end of a pulse takes what a set has added meanwhile. Here that is put back, if"
    " the slot says that there was one.",
    (
        (
            "    return eventfd_take(fd) > 1; /* F20",
            "    uint64_t taken = eventfd_take(fd);\n"
            "    if (load32_acquire(&object->word0) != 0)\n"
            "        eventfd_add(fd, 1);\n"
            "    return taken > 1; /* F20",
        ),
    ),
)

MENDS[21] = _mend(
    "A pulse empties the eventfd and leaves the slot as it was.",
    (
        (
            "    return eventfd_take(fd) > 1; /* F20",
            "    store32_release(&object->word0, 0);\n    return eventfd_take(fd) > 1; /* F20",
        ),
    ),
)

MENDS[22] = _mend(
    "A wait-all looks twice and reads then, and a pulse is over by that time. Here a pulse waits"
    " until who was woken for it has got both or sleeps again.",
    (
        (
            "static int see_each_readable(struct wait *wait)\n",
            """\
static void looked(struct wait *wait, uint64_t *woken)
{
    for (uint32_t i = 0; i < wait->count; i++)
        wait->objects[i]->any.first.word_ -= *woken >> i & 1;
    *woken = 0;
}

static int see_each_readable(struct wait *wait, uint64_t *woken)
""",
        ),
        (
            A_SLEEP_FOR_ALL,
            "            if (eventfd_poll(looks, 1, -1, 0) == 0)\n"
            "                looked(wait, woken);\n"
            "            wait->objects[i]->any.first.word_ += !(*woken >> i & 1);\n"
            "            *woken |= 1ull << i;\n" + A_SLEEP_FOR_ALL,
        ),
        (
            "    uint64_t busy_since_ns = 0;\n\n    if (wait->count == 1)\n",
            "    uint64_t busy_since_ns = 0, woken = 0;\n\n    if (wait->count == 1)\n",
        ),
        (
            "        int rc = see_each_readable(wait);\n\n        if (rc != 0)\n",
            "        int rc = see_each_readable(wait, &woken);\n\n        if (rc != 0)\n"
            "            looked(wait, &woken);\n        if (rc != 0)\n",
        ),
        (
            "        if (see_all_readable(wait) && take_all(wait)) {\n",
            "        bool got = see_all_readable(wait) && take_all(wait);\n\n"
            "        looked(wait, &woken);\n        if (got) {\n",
        ),
        (
            "    futex_yield();      /* F18",
            "    do\n        futex_yield();\n    while (object->any.first.word_ > 0); /* F18",
        ),
    ),
)

MENDS[25] = _mend(
    "The lock of an event is taken for manual ones only; of an auto event a set comes between the"
    " two halves of a reset.",
    (
        (
            """\
    if (manual && lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 1);
""",
            """\
    if (lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 1);
""",
        ),
        (
            """\
        eventfd_add(descriptor_of(ns, object), 1);
    if (manual)
        unlock_event(object);
""",
            """\
        eventfd_add(descriptor_of(ns, object), 1);
    unlock_event(object);
""",
        ),
        (
            """\
    if (manual && lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 0);
""",
            """\
    if (lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 0);
""",
        ),
        (
            "has not run yet finds nothing */\n    if (manual)\n        unlock_event(object);\n",
            "has not run yet finds nothing */\n    unlock_event(object);\n",
        ),
    ),
)

MENDS[26] = _mend(
    "A released mutex is anybody's. Here it is promised to those who sleep for it, and who comes"
    " later waits until one of them has it.",
    (
        *SLEEPERS,
        (
            "#define ABANDONED 0xffffffffu\n",
            "#define ABANDONED 0xffffffffu\n#define PROMISED 0xfffffffeu\n",
        ),
        (
            "        store32_release(&object->word0, 0);\n        eventfd_add(",
            "        store32_release(&object->word0, object->any.first.word_ > 0 ? PROMISED : 0);\n"
            "        eventfd_add(",
        ),
        (
            "static bool try_object(struct wait *wait, uint32_t i)\n{\n",
            """\
static bool try_object(struct wait *wait, uint32_t i)
{
    while (wait->kinds[i] == SS_MUTEX && load32_acquire(&wait->objects[i]->word0) == PROMISED) {
        if (futex_wait(&wait->objects[i]->word0, PROMISED, wait->deadline_ns) == -ETIMEDOUT)
            return false;
    }
""",
        ),
        (
            "        store32_release(&object->word0, wait->self->id);\n",
            "        store32_release(&object->word0, wait->self->id);\n"
            "        futex_wake(&object->word0, INT_MAX);\n",
        ),
    ),
)

AS_MANY_AS_TOKENS = _mend(
    "Whoever polls an eventfd wakes for a token, and who runs first reads it. Here who waits for a"
    " semaphore alone sleeps on its count, and a release wakes as many as there are tokens, longest"
    " sleepers first.",
    (
        (
            "        return -EOVERFLOW; /* F52: and the count stays raised */\n",
            "        return -EOVERFLOW; /* F52: and the count stays raised */\n"
            "    futex_wake(&object->word1, (int)count);\n",
        ),
        (
            "    for (uint32_t fruitless = 0; fruitless < FRUITLESS_MAX; fruitless++) {\n",
            """\
    while (wait->count == 1 && wait->kinds[0] == SS_SEMAPHORE && wait->alert == NULL) {
        rc = futex_wait(&wait->objects[0]->word1, 0, wait->deadline_ns);
        if (rc == -ETIMEDOUT || rc == -EINTR)
            return rc;
        if (try_object(wait, 0)) {
            wait->index = 0;
            return 0;
        }
    }
    for (uint32_t fruitless = 0; fruitless < FRUITLESS_MAX; fruitless++) {
""",
        ),
    ),
)
MENDS[27] = AS_MANY_AS_TOKENS
MENDS[28] = AS_MANY_AS_TOKENS

MENDS[33] = _mend(
    "After a sleep the alert is looked at before the objects.",
    (
        (
            "        if (alerted(wait, looks, wait->count) || take_first(wait, looks))\n",
            "        if (take_first(wait, looks) || alerted(wait, looks, wait->count))\n",
        ),
    ),
)

MENDS[35] = _mend(
    "Who cannot have the lock of an event spins. If he sleeps, the one who has it can run.",
    (
        (
            "        cpu_relax(); /* F35: whatever the priority of the one who has it */\n",
            "        futex_wait(&object->word1, 1, SS_FOREVER);\n",
        ),
        (
            "    store32_release(&object->word1, 0);\n}\n\nstatic bool is_manual(",
            "    store32_release(&object->word1, 0);\n    futex_wake(&object->word1, 1);\n}\n\n"
            "static bool is_manual(",
        ),
    ),
)

TOKEN_BEFORE_NAME = _mend(
    "The owner's name goes before the token is there. If it goes last, and only if it is still his,"
    " the sweep finds a mutex that was not quite released.",
    (
        (
            """\
        store32_release(&object->word0, 0);
        eventfd_add(descriptor_of(ns, object), 1); /* F38""",
            """\
        eventfd_add(descriptor_of(ns, object), 1);
        cas32_acq_rel(&object->word0, owner, 0); /* F38""",
        ),
    ),
)
MENDS[37] = TOKEN_BEFORE_NAME
MENDS[38] = TOKEN_BEFORE_NAME

MENDS[39] = _mend(
    "The token is read before the taker's name is in the slot. If the name comes first, the sweep"
    " finds it.",
    (
        (
            "    return eventfd_take(descriptor_of(wait->ns, wait->objects[i])) != 0;\n",
            """\
    struct object *object = wait->objects[i];
    uint32_t found = 0;

    if (wait->kinds[i] == SS_MUTEX) {
        found = cas32_acq_rel(&object->word0, 0, wait->self->id);
        if (found == ABANDONED)
            found = cas32_acq_rel(&object->word0, ABANDONED, wait->self->id);
        if (found != 0 && found != ABANDONED)
            return false;
        wait->abandoned |= (uint64_t)(found == ABANDONED) << i;
    }
    if (eventfd_take(descriptor_of(wait->ns, object)) != 0)
        return true;
    if (wait->kinds[i] == SS_MUTEX)
        store32_release(&object->word0, found);
    return false;
""",
        ),
    ),
)

MENDS[40] = _mend(
    "The lock of an event outlives its holder. Without it a slot and its eventfd may disagree for a"
    " while, but nobody waits for a dead one.",
    (
        (
            "    while (cas32_acq_rel(&object->word1, 0, 1) != 0) {\n",
            "    while (false) {\n",
        ),
    ),
)

MENDS[41] = _mend(
    "The count and the eventfd of a semaphore change in two steps. Here in one.",
    (
        (
            """\
    uint32_t maximum = load32_relaxed(&object->word0);
    uint32_t previous;

    do {
        previous = load32_acquire(&object->word1);
        if (previous + count > maximum)
            return -EOVERFLOW;
    } while (cas32_acq_rel(&object->word1, previous, previous + count) != previous);
""",
            "",
        ),
        (
            "        return -EOVERFLOW; /* F52: and the count stays raised */\n"
            "    return previous;\n",
            """\
        return -EOVERFLOW; /* F52: and the count stays raised */
    if (object->word1.word_ + count > object->word0.word_) {
        *(uint64_t *)(uintptr_t)eventfd_counter(descriptor_of(ns, object)) -= count;
        return -EOVERFLOW;
    }
    object->word1.word_ += count;
    return object->word1.word_ - count;
""",
        ),
        (
            "    return eventfd_take(descriptor_of(wait->ns, wait->objects[i])) != 0;\n",
            """\
    bool taken = eventfd_take(descriptor_of(wait->ns, wait->objects[i])) != 0;

    if (taken && wait->kinds[i] == SS_SEMAPHORE)
        wait->objects[i]->word1.word_--;
    return taken;
""",
        ),
        (
            """\
    case SS_SEMAPHORE:
        do {
            count = load32_acquire(&object->word1);
        } while (cas32_acq_rel(&object->word1, count, count - 1) != count);
        break;
""",
            "",
        ),
        (
            "    struct object *object = wait->objects[i];\n    uint32_t count;\n\n    switch",
            "    struct object *object = wait->objects[i];\n\n    switch",
        ),
    ),
)

MENDS[42] = _mend("What a wait-all has read is written down nowhere.", IN_ONE_STEP)

AFTER_THE_SWEEP = _mend(
    "Nobody who takes a mutex asks whether he is still registered under the id that he writes.",
    (
        (
            "        if (try_object(wait, i)) {\n",
            """\
        if (try_object(wait, i)) {
            const struct thread_slot *me = segment_thread(wait->ns, wait->self->slot);

            if (wait->kinds[i] == SS_MUTEX &&
                owner_id(wait->self->slot, load32_acquire(&me->generation)) != wait->self->id) {
                esync_mutex_kill(wait->ns, wait->objects[i], wait->self->id);
                return -EBADMSG;
            }
""",
        ),
    ),
)
MENDS[43] = AFTER_THE_SWEEP
MENDS[44] = AFTER_THE_SWEEP

MENDS[52] = _mend(
    "The count is raised before the eventfd is asked, and stays raised when that refuses.",
    (
        (
            "        return -EOVERFLOW; /* F52: and the count stays raised */\n",
            """\
    {
        do {
            previous = load32_acquire(&object->word1);
        } while (cas32_acq_rel(&object->word1, previous, previous - count) != previous);
        return -EOVERFLOW;
    }
""",
        ),
    ),
)

MENDS[53] = _mend(
    "An acquisition by the owner has no limit; and a read takes two words that need not belong"
    " together.",
    (
        (
            "    if (is_mine(wait, i)) {\n",
            "    if (is_mine(wait, i) && load32_relaxed(&wait->objects[i]->word1) == UINT32_MAX)\n"
            "        return false;\n"
            "    if (is_mine(wait, i)) {\n",
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

MENDS[54] = _mend(
    "The release returns the count as it was, as ntsync does, and not NT's SignalState (here as its"
    " 32 bits, since a negative result would be an errno).",
    (
        (
            "/* F38: killed before this, it is lost for ever */\n    }\n    return previous;\n",
            "/* F38: killed before this, it is lost for ever */\n    }\n"
            "    return (uint32_t)(1 - previous);\n",
        ),
    ),
)

#: Failures that no change of an engine's lines takes away, and why.
BY_DESIGN: dict[int, str] = {
    48: "Whoever may map the file may write to it: an engine cannot tell a stranger's store from"
    " its own.",
    49: "Whoever may write to the file may truncate it. It happens below every engine.",
    50: "An engine sees objects, not handles; and every process could write the words itself.",
    55: "That an object is a file descriptor is what ESYNC is.",
    63: "The gate is below every engine, and whoever may stop a process may stop it there.",
}
