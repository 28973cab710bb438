/* The rules of NT's objects as pure changes of a value: no lock, no sleep, no clock, no shared memory. Engines
 * that decide under a lock apply them to what they hold; a fast path applies them to what it is about to exchange.
 *
 * The rules are ntsync's, with NT's argument checks in front; -errno means that nothing was changed. api.h, which has
 * no guard of its own, is to be included before.
 */
#ifndef SS_OBJECT_H
#define SS_OBJECT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* NT's LONG: the most a semaphore can hold. A mutex counts further, as ntsync's. */
#define SEMAPHORE_MAXIMUM 0x7fffffffu
#define RECURSION_MAXIMUM 0xffffffffu

static inline int object_check(const struct ss_state *initial)
{
    switch (initial->kind) {
    case SS_SEMAPHORE:
        return initial->maximum >= 1 && initial->maximum <= SEMAPHORE_MAXIMUM &&
               initial->count <= initial->maximum ? 0 : -EINVAL;
    case SS_MUTEX:
        return (initial->owner == 0) == (initial->count == 0) ? 0 : -EINVAL;
    case SS_AUTO_EVENT:
    case SS_MANUAL_EVENT:
        return initial->signaled <= 1 ? 0 : -EINVAL;
    default:
        return -EINVAL;
    }
}

/* Could a wait by `owner` take the object now? */
static inline int object_is_signaled(const struct ss_state *object, uint32_t owner)
{
    switch (object->kind) {
    case SS_SEMAPHORE:
        return object->count > 0;
    case SS_MUTEX:
        return (object->owner == 0 || object->owner == owner) && object->count < RECURSION_MAXIMUM;
    case SS_AUTO_EVENT:
    case SS_MANUAL_EVENT:
        return object->signaled != 0;
    default:
        return 0;
    }
}

/* Takes a signaled object. Returns 1 if it was an abandoned mutex, which it no longer is, else 0. */
static inline int object_take(struct ss_state *object, uint32_t owner)
{
    int abandoned = 0;

    switch (object->kind) {
    case SS_SEMAPHORE:
        object->count--;
        break;
    case SS_MUTEX:
        abandoned = object->abandoned != 0;
        object->owner = owner;
        object->count++;
        object->abandoned = 0;
        break;
    case SS_AUTO_EVENT:
        object->signaled = 0;
        break;
    default: /* a manual event stays as it is */
        break;
    }
    return abandoned;
}

static inline int64_t object_semaphore_release(struct ss_state *object, uint32_t count)
{
    uint32_t previous = object->count;

    if (count < 1 || count > SEMAPHORE_MAXIMUM)
        return -EINVAL;
    if (count > object->maximum - previous)
        return -EOVERFLOW;
    object->count = previous + count;
    return previous;
}

static inline int64_t object_mutex_unlock(struct ss_state *object, uint32_t owner)
{
    uint32_t previous = object->count;

    if (owner == 0)
        return -EINVAL;
    if (object->owner != owner)
        return -EPERM;
    object->count--;
    if (object->count == 0)
        object->owner = 0;
    return previous;
}

/* The owner is dead: the mutex is free, and its next owner will be told. */
static inline int64_t object_mutex_kill(struct ss_state *object, uint32_t owner)
{
    uint32_t previous = object->count;

    if (owner == 0)
        return -EINVAL;
    if (object->owner != owner)
        return -EPERM;
    object->owner = 0;
    object->count = 0;
    object->abandoned = 1;
    return previous;
}

static inline int64_t object_event_set(struct ss_state *object)
{
    uint32_t previous = object->signaled;

    object->signaled = 1;
    return previous;
}

static inline int64_t object_event_reset(struct ss_state *object)
{
    uint32_t previous = object->signaled;

    object->signaled = 0;
    return previous;
}

#endif
