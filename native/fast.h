/* What shmsync._fast (python/fast.c) calls of the cffi module: functions, so that the state of the process (mappings,
 * registrations, calls in flight) exists once, in that module.
 */
#ifndef SS_FAST_H
#define SS_FAST_H

#include "handle.h"
#include "owner.h"

struct fast_table {
    uint64_t build; /* FAST_BUILD of the module that filled it in */
    const atomic_uint *registrations_ended;
    struct registration *(*registered)(struct ss_namespace *ns);
    int (*wait)(struct ss_wait *wait);
    int (*wait_undo)(struct ss_wait *wait);
    int64_t (*mutex_release)(struct ss_handle *handle);
    int64_t (*semaphore_release)(struct ss_handle *handle, uint32_t count);
    int64_t (*event_set)(struct ss_handle *handle);
    int64_t (*event_reset)(struct ss_handle *handle);
    int (*read)(struct ss_handle *handle, struct ss_state *state);
};

/* Two modules that do not agree on these were not built together. */
#define FAST_MIX(build, part) ((build) * 1000003u + (uint64_t)(part))
#define FAST_SEEN FAST_MIX(FAST_MIX((uint64_t)SS_VERSION, STEPS_ARE_TRACED), sizeof(struct fast_table))
#define FAST_OWN FAST_MIX(FAST_MIX(FAST_SEEN, sizeof(struct ss_namespace)), sizeof(struct ss_handle))
#define FAST_BUILD FAST_MIX(FAST_MIX(FAST_OWN, sizeof(struct ss_wait)), sizeof(struct object))

#endif
