/* The fsync engine: FSYNC as Wine shipped it, mistakes included.
 *
 * An object is one or two 32-bit words of which the first is a futex. A change is an atomic operation on that
 * word, then a wake of everybody who sleeps on it; whoever wakes tries again. Several objects are waited for
 * with futex_waitv. There is no lock, no queue and no hand-over, and that is where it goes wrong: the
 * comments "F<n>" mark the mistakes by the number that they have in the catalogue of the failure lab.
 *
 *     kind          word0 (the futex word)                   word1
 *     semaphore     count                                    maximum
 *     mutex         owner id; 0 free; ~0 abandoned           recursion count
 *     event         signaled                                 unused
 *
 * What differs from Wine does so for the sake of the host: EINTR goes up to Python, which runs signal handlers
 * and calls again with the same deadline, and loops that do not sleep go there every 100 ms. An alert stands
 * for Wine's APC. A wait-all takes a mutex as a wait-any does, by two exchanges, and after each sleep looks at the
 * object again before it goes on to the next. Wrong arguments never get here (handle.c refuses them: F12, F24, F51).
 */
#define _GNU_SOURCE
#include <limits.h>

#include "engine.h"
#include "futex.h"

#define ABANDONED 0xffffffffu
#define BUSY_LIMIT_NS (100 * NS_PER_MS)

static void wake_everybody(struct object *object)
{
    futex_wake(&object->word0, INT_MAX); /* F28: one token, and the whole herd runs */
}

/* ---- the single calls ---- */

static void fsync_init(struct object *object, const struct ss_state *initial)
{
    uint32_t word0 = initial->signaled;
    uint32_t word1 = 0;

    if (initial->kind == SS_SEMAPHORE) {
        word0 = initial->count;
        word1 = initial->maximum;
    } else if (initial->kind == SS_MUTEX) {
        word0 = initial->owner;
        word1 = initial->count;
    }
    store32_relaxed(&object->word0, word0);
    store32_relaxed(&object->word1, word1);
}

/* Two loads: of a semaphore or mutex in motion this may be a pair that never was (F16, F53). */
static bool fsync_peek(const struct object *object, uint32_t kind, struct ss_state *state)
{
    uint32_t word0 = load32_acquire(&object->word0);
    uint32_t word1 = load32_acquire(&object->word1);

    *state = (struct ss_state){.kind = kind};
    if (kind == SS_SEMAPHORE) {
        state->count = word0;
        state->maximum = word1;
    } else if (kind == SS_MUTEX) {
        state->abandoned = word0 == ABANDONED;
        state->owner = state->abandoned ? 0 : word0;
        state->count = state->abandoned ? 0 : word1;
    } else {
        state->signaled = word0 != 0;
    }
    return false; /* whatever is there counts */
}

static int fsync_read(struct ss_namespace *ns, struct object *object, uint32_t kind, struct ss_state *state)
{
    (void)ns;
    fsync_peek(object, kind, state);
    return 0;
}

static int64_t fsync_semaphore_release(struct ss_namespace *ns, struct object *object, uint32_t count)
{
    uint32_t maximum = load32_relaxed(&object->word1);
    uint32_t previous;

    (void)ns;
    do {
        previous = load32_acquire(&object->word0);
        if (previous + count > maximum)
            return -EOVERFLOW;
    } while (cas32_acq_rel(&object->word0, previous, previous + count) != previous);
    wake_everybody(object);
    return previous;
}

static int64_t fsync_event_set(struct ss_namespace *ns, struct object *object)
{
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0) /* F36: killed here, and no later set will wake anybody either */
        wake_everybody(object);
    return previous;
}

static int64_t fsync_event_reset(struct ss_namespace *ns, struct object *object)
{
    (void)ns;
    return swap32_acq_rel(&object->word0, 0); /* F23: a waiter that was woken but has not run yet finds 0 */
}

static int64_t fsync_event_pulse(struct ss_namespace *ns, struct object *object)
{
    uint32_t previous = swap32_acq_rel(&object->word0, 1);

    (void)ns;
    if (previous == 0)
        wake_everybody(object);
    futex_yield(); /* F18: who was woken may not have looked yet; F19: who comes now passes too */
    store32_release(&object->word0, 0); /* F20: a set that came in between is lost */
    return previous;
}

static int64_t fsync_mutex_unlock(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    uint32_t previous;

    (void)ns;
    if (load32_acquire(&object->word0) != owner)
        return -EPERM;
    previous = load32_relaxed(&object->word1);
    store32_relaxed(&object->word1, previous - 1);
    if (previous == 1) {
        store32_release(&object->word0, 0);
        wake_everybody(object); /* F37: killed before this, sleepers stay asleep beside a free mutex */
    }
    return previous;
}

/* The wineserver's part at the death of a thread: plain stores, owner first. */
static int64_t fsync_mutex_kill(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    uint32_t previous = load32_relaxed(&object->word1);

    (void)ns;
    if (load32_acquire(&object->word0) != owner)
        return -EPERM;
    store32_release(&object->word0, ABANDONED);
    store32_release(&object->word1, 0); /* F45: somebody took it between the stores, and counted 1 */
    wake_everybody(object);
    return previous;
}

/* ---- taking one object ---- */

/* One attempt. If it fails, *expected is what the futex word has to be for a sleep. */
static bool try_semaphore(struct object *object, uint64_t *expected)
{
    uint32_t count = load32_acquire(&object->word0);

    *expected = 0;
    return count != 0 && cas32_acq_rel(&object->word0, count, count - 1) == count; /* F31: no second try */
}

static bool try_mutex(struct object *object, uint32_t owner, uint64_t *expected, bool *abandoned)
{
    uint32_t found = load32_acquire(&object->word0);
    bool taken;

    *abandoned = false;
    if (found == owner) {
        store32_relaxed(&object->word1, load32_relaxed(&object->word1) + 1); /* F53: no limit */
        return true;
    }
    found = cas32_acq_rel(&object->word0, 0, owner);
    taken = found == 0;
    if (found == ABANDONED) {
        found = cas32_acq_rel(&object->word0, ABANDONED, owner);
        taken = *abandoned = found == ABANDONED;
    }
    *expected = found; /* F46: 0, "sleep while it is free", if it was taken and freed between the two */
    if (taken)
        store32_relaxed(&object->word1, 1); /* F16: until here it was owned with a count of 0 */
    return taken;
}

static bool try_event(struct object *object, uint32_t kind, uint64_t *expected)
{
    *expected = 0;
    if (kind == SS_MANUAL_EVENT)
        return load32_acquire(&object->word0) != 0;
    return cas32_acq_rel(&object->word0, 1, 0) != 0;
}

static bool try_object(struct wait *wait, uint32_t i, uint64_t *expected)
{
    bool abandoned;

    switch (wait->kinds[i]) {
    case SS_SEMAPHORE:
        return try_semaphore(wait->objects[i], expected);
    case SS_MUTEX:
        if (!try_mutex(wait->objects[i], wait->self->id, expected, &abandoned))
            return false;
        wait->abandoned = (uint64_t)abandoned << i;
        return true;
    default:
        return try_event(wait->objects[i], wait->kinds[i], expected);
    }
}

/* ---- sleeping ---- */

/* Since when this call has been at it; not asked for by a wait that succeeds at once. */
static void start_clock(uint64_t *busy_since_ns)
{
    if (*busy_since_ns == 0)
        *busy_since_ns = clock_now_ns();
}

/* Sleeps on some words, and on the alert. 0: look again; -ETIMEDOUT; -EINTR. */
static int sleep_on(struct wait *wait, struct futex_sleep *sleeps, uint32_t count, uint64_t *busy_since_ns)
{
    int rc;

    if (wait->deadline_ns == 0)
        return -ETIMEDOUT; /* no system call for a poll */
    if (wait->alert != NULL)
        sleeps[count++] = (struct futex_sleep){&wait->alert->word0, 0};
    wait_publish(wait);
    start_clock(busy_since_ns);
    rc = futex_waitv(sleeps, count, wait->deadline_ns);
    if (rc == -ETIMEDOUT || rc == -EINTR)
        return rc; /* F32: no last look */
    /* Whatever else came of it means "look again", and nobody asks how late it is (F11, F15). */
    return clock_now_ns() - *busy_since_ns > BUSY_LIMIT_NS ? -EINTR : 0;
}

static bool alerted(struct wait *wait)
{
    uint64_t expected;

    if (wait->alert == NULL || !try_event(wait->alert, wait->alert_kind, &expected))
        return false;
    wait->index = wait->count;
    return true;
}

/* ---- waiting for any ---- */

static int fsync_wait_any(struct wait *wait)
{
    struct futex_sleep sleeps[FUTEX_SLEEP_MAX];
    uint64_t busy_since_ns = 0;
    int rc;

    do {
        if (alerted(wait)) /* F33: before the objects */
            return 0;
        for (uint32_t i = 0; i < wait->count; i++) {
            sleeps[i].word = &wait->objects[i]->word0;
            if (try_object(wait, i, &sleeps[i].expected)) {
                wait->index = i;
                return 0;
            }
        }
        rc = sleep_on(wait, sleeps, wait->count, &busy_since_ns);
    } while (rc == 0);
    return rc;
}

/* ---- waiting for all ---- */

/* Does it look as if the object could be taken? If not, *expected is what to sleep on. */
static bool looks_available(struct wait *wait, uint32_t i, uint64_t *expected)
{
    uint32_t found = load32_acquire(&wait->objects[i]->word0);

    if (wait->kinds[i] != SS_MUTEX) {
        *expected = 0;
        return found != 0;
    }
    /* F10: an abandoned mutex counts as owned. F11: its ~0 is widened as a signed number, which the kernel
     * refuses from 6.7 on, so that what slept for ever there is busy for ever here. */
    *expected = (uint64_t)(int64_t)(int32_t)found;
    return found == 0 || found == wait->self->id;
}

/* Phase 1: sees each object available once, in turn, sleeping on those that are not (F13). */
static int see_each_available(struct wait *wait, uint64_t *busy_since_ns)
{
    struct futex_sleep sleeps[2];
    int rc;

    for (uint32_t i = 0; i < wait->count; i++) {
        sleeps[0].word = &wait->objects[i]->word0;
        while (!looks_available(wait, i, &sleeps[0].expected)) {
            if (alerted(wait))
                return 1;
            rc = sleep_on(wait, sleeps, 1, busy_since_ns);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* Phase 2: are all of them available now? */
static bool see_all_available(struct wait *wait)
{
    uint64_t expected;

    for (uint32_t i = 0; i < wait->count; i++) {
        if (!looks_available(wait, i, &expected))
            return false;
    }
    return true;
}

/* Takes one object for phase 3; a mutex without counting it, and one that is the caller's already as it is. */
static bool grab(struct wait *wait, uint32_t i)
{
    struct object *object = wait->objects[i];
    uint32_t me = wait->self->id;
    uint64_t expected;

    if (wait->kinds[i] == SS_SEMAPHORE)
        return try_semaphore(object, &expected);
    if (wait->kinds[i] == SS_AUTO_EVENT)
        return try_event(object, SS_AUTO_EVENT, &expected);
    if (wait->kinds[i] == SS_MANUAL_EVENT)
        return true; /* F17: not looked at again */
    if (load32_acquire(&object->word0) == me)
        return true;
    switch (cas32_acq_rel(&object->word0, 0, me)) {
    case 0:
        return true;
    case ABANDONED:
        if (cas32_acq_rel(&object->word0, ABANDONED, me) != ABANDONED)
            return false;
        wait->abandoned |= 1ull << i;
        return true;
    default:
        return false;
    }
}

/* Puts back what was grabbed, with plain stores, and wakes nobody (F2). */
static void roll_back(struct wait *wait, uint32_t grabbed)
{
    while (grabbed-- > 0) {
        struct object *object = wait->objects[grabbed];
        uint32_t count;

        switch (wait->kinds[grabbed]) {
        case SS_SEMAPHORE: /* F6: above its maximum, if it was released meanwhile */
            do {
                count = load32_acquire(&object->word0);
            } while (cas32_acq_rel(&object->word0, count, count + 1) != count);
            break;
        case SS_AUTO_EVENT:
            store32_release(&object->word0, 1); /* F5: signaled again, though it was reset meanwhile */
            break;
        case SS_MUTEX:
            store32_release(&object->word0, 0); /* F3: also one that was the caller's before; F4, F7 */
            break;
        default:
            break;
        }
    }
    wait->abandoned = 0;
}

/* Phase 3: takes one after the other; what is taken is missing to everybody else meanwhile (F1, F14, F42). */
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

/* Phase 4: counts the mutexes, all of them after the last grab (F16). */
static void count_mutexes(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        shared32 *recursion = &wait->objects[i]->word1;

        if (wait->kinds[i] == SS_MUTEX)
            store32_relaxed(recursion, load32_relaxed(recursion) + 1);
    }
}

static int fsync_wait_all(struct wait *wait)
{
    uint64_t busy_since_ns = 0;

    if (wait->count == 1)
        return fsync_wait_any(wait);
    for (;;) {
        int rc = see_each_available(wait, &busy_since_ns);

        if (rc != 0)
            return rc < 0 ? rc : 0; /* 1: the alert ended it */
        if (see_all_available(wait) && grab_all(wait)) {
            count_mutexes(wait);
            wait->index = 0;
            return 0;
        }
        /* F14: two that roll back for each other go on for ever; F15: and for longer than was asked. */
        start_clock(&busy_since_ns);
        if (clock_now_ns() - busy_since_ns > BUSY_LIMIT_NS)
            return -EINTR;
    }
}

static void fsync_give_back(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned)
{
    switch (load32_relaxed(&object->kind)) {
    case SS_SEMAPHORE:
        fsync_semaphore_release(ns, object, 1);
        break;
    case SS_AUTO_EVENT:
        fsync_event_set(ns, object);
        break;
    case SS_MUTEX:
        if (abandoned)
            fsync_mutex_kill(ns, object, owner); /* its next owner is still to be told */
        else
            fsync_mutex_unlock(ns, object, owner);
        break;
    default:
        break;
    }
}

static int fsync_probe(void)
{
    return futex_waitv_probe();
}

const struct engine engine_fsync = {
    .id = SS_ENGINE_FSYNC,
    .sweeps = true,
    .probe = fsync_probe,
    .init = fsync_init,
    .peek = fsync_peek,
    .read = fsync_read,
    .semaphore_release = fsync_semaphore_release,
    .mutex_unlock = fsync_mutex_unlock,
    .event_set = fsync_event_set,
    .event_reset = fsync_event_reset,
    .event_pulse = fsync_event_pulse,
    .wait_any = fsync_wait_any,
    .wait_all = fsync_wait_all,
    .mutex_kill = fsync_mutex_kill,
    .give_back = fsync_give_back,
};
