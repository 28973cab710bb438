/* This process's side of a segment: the mapping, the gate, the undo log and the byte-range locks. */
#ifndef SS_SEGMENT_H
#define SS_SEGMENT_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api.h"
#include "layout.h"

struct engine;
struct descriptor;

/* A wait for a lock that somebody may hold while stopped is cut into slices, after which the call returns
 * -EINTR, so that signal handlers and deadlines stay alive. */
#define SS_SLICE_NS (50 * NS_PER_MS)

/* One mapping per inode and process, shared by every namespace and handle on it, so that a thread is one owner.
 * It outlives its last namespace for as long as a thread of this process is registered in it: a held robust
 * mutex is linked into the C library's per-thread list, and unmapping it would leave that list dangling. */
struct ss_namespace {
    struct ss_namespace *next;    /* registry lock */
    dev_t device;                 /* r/o after attach */
    ino_t inode;                  /* r/o after attach */
    uint8_t *base;                /* r/o after attach */
    struct geometry geometry;     /* r/o after attach */
    const struct engine *engine;  /* r/o after attach */
    uint64_t instance;            /* r/o after attach */
    bool persistent;              /* r/o after attach */
    char shm_name[256];           /* r/o after attach */
    int fd;                       /* holds bytes 1 and 64 + process; replaced in a forked child */
    atomic_uint process;          /* process slot; replaced in a forked child; SS_NONE: fork found none */
    bool outside;                 /* forked into another pid namespace, where thread ids mean other threads */
    uint32_t attachments;         /* registry lock: namespaces and handles of this process */
    uint32_t *open_counts;        /* registry lock: handles of this process, by object */
    struct ss_handle *handles;    /* registry lock: all handles of this process */
    uint32_t closed_handles;      /* registry lock: closed ones that still hold their object (handle.c) */
    uint32_t undo_length;         /* gate: what this process has put into the undo log */
    bool unburied;                /* gate: threads were found dead whose mutexes are still to be abandoned */
    int child_fd;                 /* registry lock, during fork: the child's descriptor */
    uint32_t child_process;       /* registry lock, during fork: the child's process slot */
    bool sweeper_running;         /* registry lock */
    pthread_t sweeper;            /* registry lock */
    shared32 sweeper_stop;        /* futex word, process-local: 1 asks the sweeper to end */
    struct descriptor *descriptors; /* by object, or NULL: the engine's objects are no descriptors */
    int maker;                    /* the device that they are made with, or -1 */
    int broker;                   /* connection that ends with the broker, or -1; its own in a forked child */
    bool deserted;                /* the broker was killed */
    bool buries;                  /* abandons the mutexes of dead threads; else the broker does */
};

/* ---- addresses; indexes must have been checked ---- */

static inline struct header *segment_header(const struct ss_namespace *ns)
{
    return (struct header *)(void *)ns->base;
}

static inline struct control *segment_control(const struct ss_namespace *ns)
{
    return (struct control *)(void *)(ns->base + sizeof(struct header));
}

static inline struct process_slot *segment_process(const struct ss_namespace *ns, uint32_t slot)
{
    return (struct process_slot *)(void *)(ns->base + ns->geometry.processes_at) + slot;
}

static inline shared64 *segment_open_set(const struct ss_namespace *ns, uint32_t process)
{
    return (shared64 *)(void *)(ns->base + ns->geometry.open_sets_at) + (uint64_t)process * ns->geometry.set_words;
}

static inline struct thread_slot *segment_thread(const struct ss_namespace *ns, uint32_t slot)
{
    return (struct thread_slot *)(void *)(ns->base + ns->geometry.threads_at) + slot;
}

static inline shared32 *segment_bucket(const struct ss_namespace *ns, uint32_t hash)
{
    return (shared32 *)(void *)(ns->base + ns->geometry.buckets_at) + (hash & (ns->geometry.buckets - 1));
}

static inline struct object *segment_object(const struct ss_namespace *ns, uint32_t index)
{
    return (struct object *)(void *)(ns->base + ns->geometry.objects_at) + index;
}

/* Links hold index + 1; 0 ends a chain. */
static inline uint32_t segment_link(uint32_t index)
{
    return index + 1;
}

static inline char *segment_name(const struct ss_namespace *ns, uint32_t index)
{
    return (char *)ns->base + ns->geometry.names_at + (uint64_t)index * SS_NAME_MAX;
}

static inline uint32_t segment_object_index(const struct ss_namespace *ns, const struct object *object)
{
    return (uint32_t)(object - segment_object(ns, 0));
}

/* A count read from the segment, cut to what can be true, so that no loop leaves its array. */
static inline uint32_t segment_bounded(const shared32 *count, uint32_t limit)
{
    uint32_t value = load32_relaxed(count);
    return value < limit ? value : limit;
}

/* ---- the registry of this process's mappings (segment.c) ---- */

void registry_lock(void);
void registry_unlock(void);
/* Can this process use the segment? -ECHILD: it was forked when there was no process slot or descriptor for it;
 * -ENOSYS: it was forked into another pid namespace; -ENOTRECOVERABLE: its broker was killed. */
static inline int segment_check(const struct ss_namespace *ns)
{
    if (ns->outside)
        return -ENOSYS;
    if (ns->deserted)
        return -ENOTRECOVERABLE;
    /* Pairs with the release in segment.c: enter. Who sees the slot sees which handles are lost. */
    return atomic_load_explicit(&ns->process, memory_order_acquire) == SS_NONE ? -ECHILD : 0;
}
/* The mapping of the segment of that instance, or NULL if there is none any more. Registry lock held. */
struct ss_namespace *segment_find(uint64_t instance);
/* One user of the mapping less: it is unmapped if that was the last. Registry lock held. */
void segment_drop(struct ss_namespace *ns);

/* ---- descriptors of objects (descriptor.c) ---- */

int descriptors_begin(struct ss_namespace *ns); /* 0, -ENOMEM; does nothing for an engine that has none */
void descriptors_end(struct ss_namespace *ns);
/* The object's descriptor in this process, or -1. */
int descriptor_of(const struct ss_namespace *ns, const struct object *object);
/* 1: it is to be had from the broker; 0: it is there, or there is none; -errno: it could not be made. Gate held. */
int descriptor_prepare(struct ss_namespace *ns, uint32_t index);
void descriptor_close(struct ss_namespace *ns, uint32_t index);
/* After its broker was killed and everybody has left, a segment that persists may have another. */
void broker_forget(struct ss_namespace *ns);
/* Has the broker been killed, as far as this process can see? */
bool broker_is_lost(struct ss_namespace *ns);
/* Asks it to look after the dead at once. 0, or -ENOTRECOVERABLE if it was killed. */
int broker_hurry(struct ss_namespace *ns);

/* ---- byte-range locks (locks.c) ---- */

int range_lock(int fd, int64_t byte, bool exclusive, bool wait); /* 0, -EAGAIN, -EINTR, -errno */
int range_unlock(int fd, int64_t byte);
bool range_is_locked(int fd, int64_t byte); /* by another open file description */

/* ---- the gate and the undo log (gate.c) ---- */

int gate_lock(struct ss_namespace *ns);   /* 0; -EINTR after a slice; -EBADMSG: damaged */
void gate_unlock(struct ss_namespace *ns);/* after burying the dead that were met */

void undo_write32(struct ss_namespace *ns, shared32 *word, uint32_t value);
void undo_write64(struct ss_namespace *ns, shared64 *word, uint64_t value);
void undo_commit(struct ss_namespace *ns);
/* Takes back what was logged since the last commit. */
void undo_abort(struct ss_namespace *ns);
/* Entries of the largest transactions, asserted to fit the log where they are used. */
#define SS_TRANSACTION(entries) static_assert((entries) <= SS_UNDO_MAX, "the undo log is too short")

/* ---- objects and names (directory.c); all of it under the gate ---- */

uint32_t directory_hash(const char *name, uint32_t length);
/* 0 and the index, -ENOENT, or -EBADMSG. */
int directory_find(struct ss_namespace *ns, const char *name, uint32_t length, uint32_t *index);
/* A new object, open in this process. 0 and the index, -ENOSPC, or -EBADMSG. */
int directory_create(struct ss_namespace *ns, const struct ss_open *request, uint32_t owner, uint32_t *index);
bool directory_is_open(struct ss_namespace *ns, uint32_t process, uint32_t index);
void directory_open(struct ss_namespace *ns, uint32_t process, uint32_t index);
/* Ends the process's use of the object, which is freed if that was the last. */
void directory_close(struct ss_namespace *ns, uint32_t process, uint32_t index);
/* Frees an object that nobody has open or owns, unless it is to persist. */
void directory_free_if_unused(struct ss_namespace *ns, uint32_t index);

#endif
