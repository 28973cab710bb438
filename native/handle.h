/* A process's reference to an object. */
#ifndef SS_HANDLE_H
#define SS_HANDLE_H

#include "segment.h"

/* `state` counts the calls in flight; with HANDLE_CLOSED set no new one may begin. Whoever brings it to
 * HANDLE_CLOSED with no calls, the closing thread or the last call, gives the object back. */
#define HANDLE_CLOSED 0x80000000u

struct ss_handle {
    struct ss_handle *next;  /* registry lock */
    struct ss_handle **link; /* registry lock: what points here; NULL once the object is given back */
    struct ss_namespace *ns; /* r/o; valid while `link` is */
    uint64_t instance;       /* r/o: of the segment; finds the namespace even if it is gone */
    uint32_t index;          /* r/o */
    uint32_t generation;     /* r/o */
    uint32_t kind;           /* r/o: enum ss_kind */
    bool late;               /* registry lock: closed, but the gate could not be had; counted in closed_handles */
    bool lost;               /* registry lock: its object went while this process had no slot to hold it */
    bool orphan;             /* registry lock: Python has forgotten it; to be freed when given back */
    atomic_uint state;
};

/* The process has that slot now: opens what the handles refer to, as far as it is still there. Registry lock, gate. */
void handles_after_late_entry(struct ss_namespace *ns, uint32_t process);
/* In a forked child: calls that other threads of the parent had in flight will never end here. Registry lock. */
void handles_after_fork(struct ss_namespace *ns);

#endif
