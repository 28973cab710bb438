/* What an engine is: the operations of ntsync on objects in a segment. */
#ifndef SS_ENGINE_H
#define SS_ENGINE_H

#include "owner.h"
#include "segment.h"

/* One wait, checked: the objects are of this segment, open, and of the kind that their handles say. */
struct wait {
    struct ss_namespace *ns;
    struct registration *self;
    struct object *objects[SS_WAIT_MAX];
    uint32_t kinds[SS_WAIT_MAX];      /* enum ss_kind, of the handles: immune to the segment */
    uint32_t indexes[SS_WAIT_MAX + 1];/* of the objects, then of the alert */
    uint32_t count;
    struct object *alert;             /* or NULL */
    uint32_t alert_kind;
    uint32_t kind;                    /* SS_WAIT_ANY or SS_WAIT_ALL, to publish */
    bool published;                   /* by wait_publish: others can see what this thread waits on */
    uint64_t deadline_ns;             /* 0 polls */
    uint64_t *barges_until_ns;        /* in and out, over several calls: when the wait is to queue; 0: not known yet */
    uint64_t *stuck_since_ns;         /* in and out, over several calls: since when the gate cannot be had */
    uint32_t index;                   /* out */
    uint64_t abandoned;               /* out: bit i: objects[i] was an abandoned mutex */
};

/* All functions return -errno on failure and change nothing then; -EINTR: the gate could not be had, to be called
 * again. `owner` is an owner id. The engine may be called by many threads and processes at once. */
struct engine {
    uint32_t id;      /* enum ss_engine */
    bool sweeps;      /* wants a sweeper thread in every process (sweeper.c) */
    int (*probe)(void); /* 0, or why it cannot work here: -ENOSYS and others */
    void (*init)(struct object *object, const struct ss_state *initial);
    /* Makes an object's file descriptor, of what its words say; NULL if the objects are none (descriptor.c). */
    int (*make)(const struct ss_namespace *ns, const struct object *object, uint32_t kind);
    int (*open_device)(void); /* what they are made with, and waits are made on; or NULL */
    bool owner_is_a_hint;     /* peek may not know who owns a mutex: mutex_kill does */
    /* What the words say now, without any lock: true if a change is under way, which may yet be undone. */
    bool (*peek)(const struct object *object, uint32_t kind, struct ss_state *state);
    int (*read)(struct ss_namespace *ns, struct object *object, uint32_t kind, struct ss_state *state);
    int64_t (*semaphore_release)(struct ss_namespace *ns, struct object *object, uint32_t count);
    int64_t (*mutex_unlock)(struct ss_namespace *ns, struct object *object, uint32_t owner);
    int64_t (*event_set)(struct ss_namespace *ns, struct object *object);
    int64_t (*event_reset)(struct ss_namespace *ns, struct object *object);
    int64_t (*event_pulse)(struct ss_namespace *ns, struct object *object);
    int (*wait_any)(struct wait *wait); /* 0, -ETIMEDOUT, -EINTR */
    int (*wait_all)(struct wait *wait);

    /* Does a thread that says that it waits really wait? It may have gone away without the gate. NULL: it does. */
    bool (*still_waits)(const struct thread_slot *thread);

    /* The rest under the gate, and between transactions. */

    int64_t (*mutex_kill)(struct ss_namespace *ns, struct object *object, uint32_t owner);
    /* Undoes one taking of an object, of `owner` if it is a mutex. */
    void (*give_back)(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned);
    /* Logs the removal of a thread from all queues, for the caller's commit; NULL if there are none. */
    int (*leave_queues)(struct ss_namespace *ns, uint32_t slot);
    /* The same at once, for a thread that leaves in good order; NULL if there are no queues. */
    int (*forget_wait)(struct ss_namespace *ns, uint32_t slot);
    /* Takes out of an object's queues who has gone away from his wait; NULL if there are none. */
    void (*drop_gone)(struct ss_namespace *ns, struct object *object);
    /* After the undo of what a dead holder of the gate had begun: finishes what he had committed; or NULL. */
    int (*recover)(struct ss_namespace *ns);
};

extern const struct engine engine_esync;
extern const struct engine engine_fsync;
extern const struct engine engine_handoff;
extern const struct engine engine_ntsync;

/* By number; NULL if there is none. */
const struct engine *engine_by_id(uint32_t id);

/* For engines without queues, before a sleep, once or again; handle.c withdraws it when the wait is over. */
void wait_publish(struct wait *wait);

/* The sweeper (sweeper.c), for engines that want one: registry lock held. */
int sweeper_start(struct ss_namespace *ns); /* 0, or -EAGAIN; does nothing if it runs */
void sweeper_stop(struct ss_namespace *ns);

#endif
