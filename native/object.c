/* The rules of object.h, for callers from outside. */
#include <stdint.h>

#include "api.h"
#include "object.h"

int ss_object_check(const struct ss_state *initial)
{
    return object_check(initial);
}

int ss_object_is_signaled(const struct ss_state *object, uint32_t owner)
{
    return object_is_signaled(object, owner);
}

int ss_object_take(struct ss_state *object, uint32_t owner)
{
    return object_take(object, owner);
}

int64_t ss_object_semaphore_release(struct ss_state *object, uint32_t count)
{
    return object_semaphore_release(object, count);
}

int64_t ss_object_mutex_unlock(struct ss_state *object, uint32_t owner)
{
    return object_mutex_unlock(object, owner);
}

int64_t ss_object_mutex_kill(struct ss_state *object, uint32_t owner)
{
    return object_mutex_kill(object, owner);
}

int64_t ss_object_event_set(struct ss_state *object)
{
    return object_event_set(object);
}

int64_t ss_object_event_reset(struct ss_state *object)
{
    return object_event_reset(object);
}
