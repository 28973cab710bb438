/* Looking at a segment without touching it: a read-only mapping, no lock, no write. What is seen may be in motion,
 * and may be damaged; everything is cut to its bounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"

struct ss_peek {
    struct ss_namespace ns; /* base, geometry, engine and fd are used; nothing else */
};

static int refuse(uint32_t *why, int code, enum ss_why reason)
{
    *why = reason;
    return code;
}

static int check(int fd, struct header *header, uint32_t *why)
{
    struct stat file;
    struct geometry geometry;

    if (fstat(fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return refuse(why, -EBADMSG, SS_WHY_NOT_A_FILE);
    if (pread(fd, header, sizeof *header, 0) != (ssize_t)sizeof *header || header->magic.word_ != SS_MAGIC)
        return refuse(why, -EBADMSG, SS_WHY_FOREIGN);
    if (header->version != SS_VERSION)
        return refuse(why, -EBADMSG, SS_WHY_VERSION);
    if (header->abi != SS_ABI)
        return refuse(why, -EBADMSG, SS_WHY_ABI);
    if (header->capacity < 1 || header->capacity > SS_CAPACITY_MAX || header->threads < 1 ||
        header->threads > SS_THREADS_MAX)
        return refuse(why, -EBADMSG, SS_WHY_DAMAGED);
    geometry = geometry_of(header->capacity, header->threads);
    if (header->size != geometry.size || (uint64_t)file.st_size != geometry.size)
        return refuse(why, -EBADMSG, SS_WHY_DAMAGED);
    return engine_by_id(header->engine) != NULL ? 0 : refuse(why, -ENOSYS, SS_WHY_NO_ENGINE);
}

int ss_peek_open(int fd, struct ss_peek **out, uint32_t *why)
{
    struct ss_peek *peek;
    struct header header;
    void *base;
    int rc;

    *why = SS_WHY_NONE;
    rc = check(fd, &header, why);
    if (rc < 0)
        return rc;
    peek = calloc(1, sizeof *peek);
    if (peek == NULL)
        return -ENOMEM;
    peek->ns.geometry = geometry_of(header.capacity, header.threads);
    base = mmap(NULL, (size_t)peek->ns.geometry.size, PROT_READ, MAP_SHARED, fd, 0);
    peek->ns.fd = dup(fd);
    if (base == MAP_FAILED || peek->ns.fd < 0) {
        if (base != MAP_FAILED)
            munmap(base, (size_t)peek->ns.geometry.size);
        free(peek);
        return -ENOMEM;
    }
    peek->ns.base = base;
    peek->ns.engine = engine_by_id(header.engine);
    *out = peek;
    return 0;
}

void ss_peek_close(struct ss_peek *peek)
{
    munmap(peek->ns.base, (size_t)peek->ns.geometry.size);
    close(peek->ns.fd);
    free(peek);
}

void ss_peek_header(const struct ss_peek *peek, struct ss_peek_header *out)
{
    const struct ss_namespace *ns = &peek->ns;
    const struct header *header = segment_header(ns);
    struct control *control = segment_control(ns);

    out->version = header->version;
    out->engine = header->engine;
    out->persistent = (header->flags & SS_HEADER_PERSISTENT) != 0;
    out->capacity = ns->geometry.capacity;
    out->threads = ns->geometry.threads;
    out->size = ns->geometry.size;
    out->created_ns = header->created_ns;
    out->instance = header->instance;
    out->pid_namespace = header->pid_namespace;
    out->objects_end = segment_bounded(&control->objects_fresh, ns->geometry.capacity);
    out->threads_end = segment_bounded(&control->threads_fresh, ns->geometry.threads);
    out->processes_end = segment_bounded(&control->processes_fresh, ns->geometry.threads);
    out->undo_length = load32_relaxed(&control->undo_length);
    out->gate_tid = load32_relaxed(robust_word(&control->gate)) & ROBUST_TID_MASK;
    out->server_tid = load32_relaxed(robust_word(&control->server)) & ROBUST_TID_MASK;
}

/* What a thread says that it waits for. Pairs with the release stores that say so, in owner.c (fsync) and in gate.c
 * (handoff). */
static uint32_t wait_kind_of(const struct ss_namespace *ns, const struct thread_slot *thread)
{
    uint32_t kind = load32_acquire(&thread->wait_kind);

    return ns->engine->still_waits == NULL || ns->engine->still_waits(thread) ? kind : SS_WAIT_NONE;
}

/* How many registered threads say that they wait on an object? */
static uint32_t count_waiters(const struct ss_namespace *ns, uint32_t index)
{
    uint32_t end = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);
    uint32_t waiters = 0;

    for (uint32_t slot = 0; slot < end; slot++) {
        const struct thread_slot *thread = segment_thread(ns, slot);
        uint32_t count = segment_bounded(&thread->wait_count, SS_WAIT_MAX + 1);
        bool waits = false;

        if (load32_relaxed(&thread->state) != SS_SLOT_USED || wait_kind_of(ns, thread) == SS_WAIT_NONE)
            continue;
        for (uint32_t i = 0; i < count; i++)
            waits = waits || load32_relaxed(&thread->waits[i]) == index;
        waiters += waits;
    }
    return waiters;
}

int ss_peek_object(const struct ss_peek *peek, uint32_t index, struct ss_peek_object *out)
{
    const struct ss_namespace *ns = &peek->ns;
    const struct object *object;
    uint32_t kind;

    if (index >= ns->geometry.capacity)
        return -EINVAL;
    memset(out, 0, sizeof *out);
    out->owner_slot = SS_NONE;
    object = segment_object(ns, index);
    kind = load32_acquire(&object->kind);
    if (kind < SS_SEMAPHORE || kind > SS_MANUAL_EVENT)
        return 0;
    out->in_motion = ns->engine->peek(object, kind, &out->state);
    out->generation = load32_relaxed(&object->generation);
    out->users = load32_relaxed(&object->users);
    out->waiters = count_waiters(ns, index);
    if (out->state.owner != 0 && owner_slot(out->state.owner) < ns->geometry.threads)
        out->owner_slot = owner_slot(out->state.owner);
    out->name_length = segment_bounded(&object->name_length, SS_NAME_MAX);
    memcpy(out->name, segment_name(ns, index), out->name_length);
    return 0;
}

int ss_peek_thread(const struct ss_peek *peek, uint32_t slot, struct ss_peek_thread *out)
{
    const struct ss_namespace *ns = &peek->ns;
    const struct thread_slot *thread;

    if (slot >= ns->geometry.threads)
        return -EINVAL;
    memset(out, 0, sizeof *out);
    thread = segment_thread(ns, slot);
    if (load32_acquire(&thread->state) != SS_SLOT_USED)
        return 0;
    out->used = 1;
    out->owner_id = owner_id(slot, load32_relaxed(&thread->generation));
    out->process = load32_relaxed(&thread->process);
    out->tid = load32_relaxed(&thread->tid);
    out->wait_kind = wait_kind_of(ns, thread);
    if (out->wait_kind == SS_WAIT_NONE)
        return 0;
    out->wait_count = segment_bounded(&thread->wait_count, SS_WAIT_MAX + 1);
    for (uint32_t i = 0; i < out->wait_count; i++)
        out->waits[i] = load32_relaxed(&thread->waits[i]);
    return 0;
}

int ss_peek_process(const struct ss_peek *peek, uint32_t slot, struct ss_peek_process *out)
{
    const struct ss_namespace *ns = &peek->ns;
    const struct process_slot *process;
    const shared64 *set;

    if (slot >= ns->geometry.threads)
        return -EINVAL;
    memset(out, 0, sizeof *out);
    process = segment_process(ns, slot);
    if (load32_acquire(&process->state) != SS_SLOT_USED)
        return 0;
    out->used = 1;
    out->alive = range_is_locked(ns->fd, SS_LOCK_PROCESS + slot);
    out->pid = load32_acquire(&process->pid);
    out->start_time = load64_relaxed(&process->start_time);
    set = segment_open_set(ns, slot);
    for (uint32_t word = 0; word < ns->geometry.set_words; word++)
        out->open_objects += (uint32_t)__builtin_popcountll(load64_relaxed(&set[word]));
    return 0;
}
