/* The word of an object of the handoff engine, and what can be done to it without the gate: the fast paths. Who may
 * change it when, and what the flags mean, is told in engine_handoff.c.
 */
#ifndef SS_HANDOFF_H
#define SS_HANDOFF_H

#include <errno.h>

#include "futex.h"
#include "segment.h"

#include "object.h"

#define CAPTURED (1ull << 61)
#define QUEUED (1ull << 62)
#define ABANDONED (1ull << 63)
#define FLAGS (CAPTURED | QUEUED | ABANDONED)
#define OWNER_MASK 0x1fffffffu

static inline uint32_t kind_of(const struct object *object)
{
    return load32_relaxed(&object->kind);
}

static inline void unpack(const struct object *object, uint32_t kind, uint64_t word, struct ss_state *state)
{
    *state = (struct ss_state){.kind = kind};
    if (kind == SS_SEMAPHORE) {
        state->count = (uint32_t)word;
        state->maximum = load32_relaxed(&object->maximum);
    } else if (kind == SS_MUTEX) {
        state->count = (uint32_t)word;
        state->owner = (uint32_t)(word >> 32) & OWNER_MASK;
        state->abandoned = (word & ABANDONED) != 0;
    } else {
        state->signaled = (uint32_t)word != 0;
    }
}

static inline uint64_t pack(const struct ss_state *state)
{
    return (state->abandoned ? ABANDONED : 0) | (uint64_t)state->owner << 32 | (state->count | state->signaled);
}

/* ---- changes: what a call does to one object, as a value ---- */

enum what { RELEASE, UNLOCK, KILL, SET, RESET, PULSE };

struct change {
    enum what what;
    uint32_t argument; /* count of a release, owner of an unlock or kill */
};

/* PULSE as far as it goes where nobody waits, or the event is set: it is reset. */
static inline int64_t apply(const struct change *change, struct ss_state *state)
{
    switch (change->what) {
    case RELEASE:
        return object_semaphore_release(state, change->argument);
    case UNLOCK:
        return object_mutex_unlock(state, change->argument);
    case KILL:
        return object_mutex_kill(state, change->argument);
    case SET:
        return object_event_set(state);
    default:
        return object_event_reset(state);
    }
}

/* ---- fast paths: one look or one exchange ---- */

/* Changes an object that nobody is at or queued at. What the change returns; -EAGAIN: it takes the gate. */
static inline int64_t try_change(struct object *object, uint32_t kind, struct change change)
{
    uint64_t word = load64_acquire(&object->word);

    while (!(word & FLAGS)) {
        struct ss_state state;
        uint64_t found;
        int64_t result;

        unpack(object, kind, word, &state);
        result = apply(&change, &state);
        if (result < 0)
            return result;
        found = cas64_acq_rel(&object->word, word, pack(&state));
        if (found == word)
            return result;
        word = found;
    }
    return -EAGAIN;
}

/* Takes an object, by one exchange, or by a look if nothing is to be taken from it. 0; -ETIMEDOUT: it is not signaled;
 * -EAGAIN: it takes the gate to say. */
static inline int try_take(struct object *object, uint32_t kind, uint32_t owner)
{
    uint64_t word = load64_acquire(&object->word); /* pairs with the exchange of who signaled it */

    while (!(word & CAPTURED)) {
        struct ss_state state;
        uint64_t found;

        unpack(object, kind, word, &state);
        if (!object_is_signaled(&state, owner))
            return -ETIMEDOUT;
        if (kind == SS_MANUAL_EVENT)
            return 0;
        if (word & FLAGS)
            return -EAGAIN;
        object_take(&state, owner);
        found = cas64_acq_rel(&object->word, word, pack(&state));
        if (found == word)
            return 0;
        word = found;
    }
    return -EAGAIN;
}

/* After the release of a mutex, to be free: wakes one of those who sleep until then, if it has such (barge, in
 * engine_handoff.c). Should the processor let the look pass the exchange before it, a sleeper sleeps out his time. */
static inline void wake_barger(struct object *object)
{
    if (load32_acquire(&object->bargers) != 0 && swap32_acq_rel(&object->bargers, 0) != 0)
        futex_wake(&object->bargers, 1);
}

/* False: it takes the gate. What a captured word says could be undone. An owner may be dead, also of what others wait
 * for beside this. */
static inline bool try_read(const struct object *object, uint32_t kind, struct ss_state *state)
{
    uint64_t word = load64_acquire(&object->word);

    unpack(object, kind, word, state);
    return !(word & (CAPTURED | QUEUED)) && state->owner == 0;
}

#endif
