/* The esync engine: ESYNC as Wine shipped it, mistakes included.
 *
 * An object is an eventfd, which is readable while the object is signaled, and beside it a slot of two words. The
 * eventfd is the truth and the slot a hint, but for what only the slot knows: who owns a mutex, how often, and how
 * much a semaphore holds; and a manual event that its slot calls signaled is believed to be. Whatever touches both
 * does so one after the other, and that is where it goes wrong: the comments "F<n>" mark the mistakes by the number
 * that they have in the catalogue of the failure lab.
 *
 *     kind          word0                                    word1                     eventfd
 *     semaphore     maximum                                  count                     tokens
 *     mutex         owner id; 0 free; ~0 abandoned           recursion count           1 while it is free
 *     event         signaled                                 spin lock, if manual      above 0 while signaled
 *
 * What differs from Wine does so for the sake of the host: EINTR goes up to Python, which runs signal handlers
 * and calls again with the same deadline, and loops that do not sleep go there every 100 ms. Deadlines are times of
 * the monotonic clock (F34 is not reproduced). An alert stands for Wine's APC, and is consumed if it is an auto event.
 * A pulse tells what it found by what it reads (in Wine set, reset and pulse tell nothing: F54). Wrong arguments never
 * get here (handle.c refuses them: F12, F24, F51). The wineserver's part is the broker's (descriptor.c).
 */
#define _GNU_SOURCE
#include "engine.h"
#include "eventfd.h"
#include "futex.h"

#define ABANDONED 0xffffffffu
#define BUSY_LIMIT_NS (100 * NS_PER_MS)
/* Wake-ups for nothing, one after the other, before a wait looks at signals. */
#define FRUITLESS_MAX 1000

/* Since when this call has been at it: is that too long to go on without a look at signals? */
static bool is_busy_too_long(uint64_t *since_ns)
{
    if (*since_ns == 0)
        *since_ns = clock_now_ns();
    return clock_now_ns() - *since_ns > BUSY_LIMIT_NS;
}

/* ---- making and reading ---- */

static void esync_init(struct object *object, const struct ss_state *initial)
{
    uint32_t word0 = initial->signaled;
    uint32_t word1 = 0;

    if (initial->kind == SS_SEMAPHORE) {
        word0 = initial->maximum;
        word1 = initial->count;
    } else if (initial->kind == SS_MUTEX) {
        word0 = initial->owner;
        word1 = initial->count;
    }
    store32_relaxed(&object->word0, word0);
    store32_relaxed(&object->word1, word1);
}

static int esync_make(const struct ss_namespace *ns, const struct object *object, uint32_t kind)
{
    uint32_t word0 = load32_acquire(&object->word0);

    (void)ns;
    if (kind == SS_SEMAPHORE)
        return eventfd_make(load32_relaxed(&object->word1), true);
    if (kind == SS_MUTEX)
        return eventfd_make(word0 == 0 || word0 == ABANDONED, false);
    return eventfd_make(word0 != 0, false);
}

/* The slot alone. Of a mutex or semaphore in motion this may be a pair that never was (F16, F41, F53). */
static bool esync_peek(const struct object *object, uint32_t kind, struct ss_state *state)
{
    uint32_t word0 = load32_acquire(&object->word0);
    uint32_t word1 = load32_acquire(&object->word1);

    *state = (struct ss_state){.kind = kind};
    if (kind == SS_SEMAPHORE) {
        state->count = word1;
        state->maximum = word0;
    } else if (kind == SS_MUTEX) {
        state->abandoned = word0 == ABANDONED;
        state->owner = state->abandoned ? 0 : word0;
        state->count = state->abandoned ? 0 : word1;
    } else {
        state->signaled = word0 != 0;
    }
    return false; /* whatever is there counts */
}

static int esync_read(struct ss_namespace *ns, struct object *object, uint32_t kind, struct ss_state *state)
{
    struct eventfd_look look = {.fd = descriptor_of(ns, object)};

    esync_peek(object, kind, state);
    if (kind == SS_AUTO_EVENT || kind == SS_MANUAL_EVENT)
        state->signaled = eventfd_poll(&look, 1, -1, 0) > 0; /* F21: what a wait believes may be another */
    return 0;
}

/* ---- the single calls ---- */

static int64_t esync_semaphore_release(struct ss_namespace *ns, struct object *object, uint32_t count)
{
    uint32_t maximum = load32_relaxed(&object->word0);
    uint32_t previous;

    do {
        previous = load32_acquire(&object->word1);
        if (previous + count > maximum)
            return -EOVERFLOW;
    } while (cas32_acq_rel(&object->word1, previous, previous + count) != previous);
    /* F41: the count says that there are tokens which nobody can take yet, or ever, if this is killed here. */
    if (!eventfd_add(descriptor_of(ns, object), count))
        return -EOVERFLOW; /* F52: and the count stays raised */
    return previous;
}

/* The spin lock of a manual event. F40: who is killed, or stopped, while he has it leaves everybody else spinning. */
static int lock_event(struct object *object)
{
    uint64_t busy_since_ns = 0;

    while (cas32_acq_rel(&object->word1, 0, 1) != 0) {
        if (is_busy_too_long(&busy_since_ns))
            return -EINTR;
        cpu_relax(); /* F35: whatever the priority of the one who has it */
    }
    return 0;
}

static void unlock_event(struct object *object)
{
    store32_release(&object->word1, 0);
}

static bool is_manual(struct object *object)
{
    return load32_relaxed(&object->kind) == SS_MANUAL_EVENT;
}

static int64_t esync_event_set(struct ss_namespace *ns, struct object *object)
{
    bool manual = is_manual(object);
    uint32_t previous;

    if (manual && lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 1);
    if (!manual || previous == 0) /* F21: a manual event that its slot calls set is not repaired */
        eventfd_add(descriptor_of(ns, object), 1);
    if (manual)
        unlock_event(object);
    return previous;
}

static int64_t esync_event_reset(struct ss_namespace *ns, struct object *object)
{
    bool manual = is_manual(object);
    uint32_t previous;

    if (manual && lock_event(object) < 0)
        return -EINTR;
    previous = swap32_acq_rel(&object->word0, 0);
    /* F25: who sets an auto event now finds 0, and what he adds is taken away here. */
    if (!manual || previous != 0)
        eventfd_take(descriptor_of(ns, object)); /* F23: a waiter that was woken but has not run yet finds nothing */
    if (manual)
        unlock_event(object);
    return previous;
}

static int64_t esync_event_pulse(struct ss_namespace *ns, struct object *object)
{
    int fd = descriptor_of(ns, object);

    eventfd_add(fd, 1); /* F21: neither the slot nor its lock is looked at */
    futex_yield();      /* F18: who was woken may not have looked yet; F19: who comes now passes too */
    return eventfd_take(fd) > 1; /* F20: also what a set has added meanwhile */
}

static int64_t esync_mutex_unlock(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    uint32_t previous;

    if (load32_acquire(&object->word0) != owner)
        return -EPERM;
    previous = load32_relaxed(&object->word1);
    store32_relaxed(&object->word1, previous - 1);
    if (previous == 1) {
        store32_release(&object->word0, 0);
        eventfd_add(descriptor_of(ns, object), 1); /* F38: killed before this, it is lost for ever */
    }
    return previous;
}

/* The wineserver's part at the death of a thread. */
static int64_t esync_mutex_kill(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    uint32_t previous = load32_relaxed(&object->word1);
    int fd = descriptor_of(ns, object);

    if (load32_acquire(&object->word0) != owner)
        return -EPERM;
    store32_release(&object->word0, ABANDONED);
    store32_release(&object->word1, 0);
    if (fd >= 0) /* else it will be made of what the words say now */
        eventfd_add(fd, 1);
    return previous;
}

/* ---- taking one object ---- */

static bool take_token(struct wait *wait, uint32_t i)
{
    return eventfd_take(descriptor_of(wait->ns, wait->objects[i])) != 0;
}

/* The slot follows what was read from the eventfd. F39, F41, F42: killed before this, the token is gone. */
static void note_taken(struct wait *wait, uint32_t i)
{
    struct object *object = wait->objects[i];
    uint32_t count;

    switch (wait->kinds[i]) {
    case SS_SEMAPHORE:
        do {
            count = load32_acquire(&object->word1);
        } while (cas32_acq_rel(&object->word1, count, count - 1) != count);
        break;
    case SS_MUTEX:
        if (load32_acquire(&object->word0) == ABANDONED)
            wait->abandoned |= 1ull << i;
        store32_release(&object->word0, wait->self->id);
        store32_relaxed(&object->word1, load32_relaxed(&object->word1) + 1); /* F16: until here it counts 0; F53 */
        break;
    case SS_AUTO_EVENT:
        store32_release(&object->word0, 0); /* F20, F25: also what a set has stored meanwhile */
        break;
    default:
        break;
    }
}

static bool is_mine(const struct wait *wait, uint32_t i)
{
    return wait->kinds[i] == SS_MUTEX && load32_acquire(&wait->objects[i]->word0) == wait->self->id;
}

/* What the slot says. No system call where it says no. */
static bool looks_signaled(const struct wait *wait, uint32_t i)
{
    const struct object *object = wait->objects[i];

    if (wait->kinds[i] == SS_SEMAPHORE)
        return load32_acquire(&object->word1) != 0;
    if (wait->kinds[i] == SS_MUTEX)
        return load32_acquire(&object->word1) == 0;
    return load32_acquire(&object->word0) != 0;
}

static bool try_object(struct wait *wait, uint32_t i)
{
    if (is_mine(wait, i)) {
        store32_relaxed(&wait->objects[i]->word1, load32_relaxed(&wait->objects[i]->word1) + 1); /* F53: no limit */
        return true;
    }
    if (!looks_signaled(wait, i))
        return false;
    if (wait->kinds[i] == SS_MANUAL_EVENT)
        return true; /* F21: whatever the eventfd says */
    if (!take_token(wait, i)) /* F26: somebody else was faster */
        return false;
    note_taken(wait, i);
    return true;
}

/* ---- sleeping ---- */

/* Adds the alert, if there is one, to what a thread polls. */
static uint32_t add_alert(const struct wait *wait, struct eventfd_look *looks, uint32_t count)
{
    if (wait->alert != NULL)
        looks[count++].fd = descriptor_of(wait->ns, wait->alert);
    return count;
}

/* Polls some objects, and last the alert. Positive; -ETIMEDOUT; -EINTR; -ENOTRECOVERABLE. F28: all who poll an object
 * wake for one token; F27: in no order. */
static int sleep_on(struct wait *wait, struct eventfd_look *looks, uint32_t count)
{
    int rc;

    if (wait->deadline_ns != 0)
        wait_publish(wait);
    rc = eventfd_poll(looks, count, wait->ns->broker, wait->deadline_ns);
    if (rc == -ENOTRECOVERABLE)
        ss_broker_lost(wait->ns);
    return rc == 0 ? -ETIMEDOUT : rc;
}

/* Was it the alert that has ended a poll? F33: before the objects. */
static bool alerted(struct wait *wait, const struct eventfd_look *looks, uint32_t alert)
{
    if (wait->alert == NULL || !looks[alert].readable)
        return false;
    if (wait->alert_kind == SS_AUTO_EVENT) {
        if (eventfd_take(looks[alert].fd) == 0)
            return false;
        store32_release(&wait->alert->word0, 0);
    }
    wait->index = wait->count;
    return true;
}

/* ---- waiting for any ---- */

/* Takes the first object that a poll has found readable. */
static bool take_first(struct wait *wait, const struct eventfd_look *looks)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (!looks[i].readable)
            continue;
        if (wait->kinds[i] != SS_MANUAL_EVENT) {
            if (!take_token(wait, i))
                continue;
            note_taken(wait, i);
        }
        wait->index = i;
        return true;
    }
    return false;
}

static int esync_wait_any(struct wait *wait)
{
    struct eventfd_look looks[EVENTFD_POLL_MAX];
    int rc;

    for (uint32_t i = 0; i < wait->count; i++) {
        looks[i].fd = descriptor_of(wait->ns, wait->objects[i]);
        if (try_object(wait, i)) {
            wait->index = i;
            return 0;
        }
    }
    for (uint32_t fruitless = 0; fruitless < FRUITLESS_MAX; fruitless++) {
        rc = sleep_on(wait, looks, add_alert(wait, looks, wait->count));
        if (rc < 0)
            return rc;
        if (alerted(wait, looks, wait->count) || take_first(wait, looks))
            return 0; /* F26: else it sleeps again, with the time that is left */
    }
    return -EINTR;
}

/* ---- waiting for all ---- */

/* Phase 1: sees each object readable once, in turn (F13). 1: the alert has ended it. */
static int see_each_readable(struct wait *wait)
{
    struct eventfd_look looks[2];

    for (uint32_t i = 0; i < wait->count; i++) {
        int rc;

        if (is_mine(wait, i))
            continue;
        looks[0].fd = descriptor_of(wait->ns, wait->objects[i]);
        do {
            rc = sleep_on(wait, looks, add_alert(wait, looks, 1));
            if (rc < 0)
                return rc;
            if (alerted(wait, looks, 1))
                return 1;
        } while (!looks[0].readable);
    }
    return 0;
}

/* Phase 2: are all of them readable now? F9: also those that are mine, and never will be. */
static bool see_all_readable(struct wait *wait)
{
    struct eventfd_look looks[EVENTFD_POLL_MAX];

    for (uint32_t i = 0; i < wait->count; i++)
        looks[i].fd = descriptor_of(wait->ns, wait->objects[i]);
    return eventfd_poll(looks, wait->count, -1, 0) == (int)wait->count;
}

/* Puts back, so it was meant, what was taken before the one that failed. F8: it is all given to that one. */
static void roll_back(struct wait *wait, uint32_t failed)
{
    int fd = descriptor_of(wait->ns, wait->objects[failed]);

    for (uint32_t i = 0; i <= failed; i++)
        eventfd_add(fd, 1);
}

/* Phase 3: reads one after the other; what is taken is missing to everybody else meanwhile (F1, F14, F42). A manual
 * event is not looked at again (F17). */
static bool take_all(struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (is_mine(wait, i) || wait->kinds[i] == SS_MANUAL_EVENT || take_token(wait, i))
            continue;
        roll_back(wait, i);
        return false;
    }
    return true;
}

static int esync_wait_all(struct wait *wait)
{
    uint64_t busy_since_ns = 0;

    if (wait->count == 1)
        return esync_wait_any(wait);
    do {
        int rc = see_each_readable(wait);

        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (see_all_readable(wait) && take_all(wait)) {
            for (uint32_t i = 0; i < wait->count; i++) /* phase 4: all slots after the last read (F16) */
                note_taken(wait, i);
            wait->index = 0;
            return 0;
        }
        /* F14: two that roll back for each other go on for ever; F15: and for longer than was asked. */
    } while (!is_busy_too_long(&busy_since_ns));
    return -EINTR;
}

static void esync_give_back(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned)
{
    if (descriptor_of(ns, object) < 0)
        return; /* a signal handler has closed the last handle since */
    switch (load32_relaxed(&object->kind)) {
    case SS_SEMAPHORE:
        esync_semaphore_release(ns, object, 1);
        break;
    case SS_AUTO_EVENT:
        esync_event_set(ns, object);
        break;
    case SS_MUTEX:
        if (abandoned)
            esync_mutex_kill(ns, object, owner); /* its next owner is still to be told */
        else
            esync_mutex_unlock(ns, object, owner);
        break;
    default:
        break;
    }
}

static int esync_probe(void)
{
    return 0; /* every Linux that shmsync runs on has eventfds */
}

const struct engine engine_esync = {
    .id = SS_ENGINE_ESYNC,
    .probe = esync_probe,
    .init = esync_init,
    .make = esync_make,
    .peek = esync_peek,
    .read = esync_read,
    .semaphore_release = esync_semaphore_release,
    .mutex_unlock = esync_mutex_unlock,
    .event_set = esync_event_set,
    .event_reset = esync_event_reset,
    .event_pulse = esync_event_pulse,
    .wait_any = esync_wait_any,
    .wait_all = esync_wait_all,
    .mutex_kill = esync_mutex_kill,
    .give_back = esync_give_back,
};
