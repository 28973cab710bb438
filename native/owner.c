/* Thread slots, process slots, and the reaping of dead ones. See layout.h for the fields, owner.h for the ids.
 *
 * Liveness of a thread: it locks the robust mutex of its slot when it registers and keeps it until it ends, in
 * whatever way. trylock says EBUSY while it lives. It is only tried under the gate, which also makes whoever
 * finds it dead the one who reaps it. Registration locks first and marks the slot second, so a slot that is
 * marked used and can be locked is a dead thread's.
 *
 * Liveness of a process: its byte 64 + slot on the segment's file is locked.
 */
#define _GNU_SOURCE
#include "owner.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

/* ---- the calling thread's registrations ---- */

static PER_THREAD(struct registration *, registrations);
static pthread_key_t registrations_key; /* frees the list when its thread ends */
static pthread_once_t registrations_once = PTHREAD_ONCE_INIT;

atomic_uint registrations_ended;

static void free_registrations(void *list)
{
    struct registration *self = list;

    atomic_fetch_add(&registrations_ended, 1);
    while (self != NULL) {
        struct registration *next = self->next;

        free(self);
        self = next;
    }
    per_thread(registrations) = NULL;
}

static void create_key(void)
{
    pthread_key_create(&registrations_key, free_registrations);
}

void owner_forget_all(void)
{
    free_registrations(per_thread(registrations));
    pthread_once(&registrations_once, create_key);
    pthread_setspecific(registrations_key, NULL);
}

struct registration *owner_registered(struct ss_namespace *ns)
{
    struct registration *self = per_thread(registrations);

    while (self != NULL && self->ns != ns)
        self = self->next;
    return self;
}

/* ---- registering ---- */

/* Locks the liveness mutex of a slot that is marked free. True if it is ours now. */
static bool lock_liveness(struct thread_slot *thread)
{
    int rc = robust_trylock(&thread->liveness);

    if (rc == -EOWNERDEAD) /* a thread that died between locking and marking */
        rc = robust_consistent(&thread->liveness);
    if (rc == -ENOTRECOVERABLE && robust_init(&thread->liveness) == 0)
        rc = robust_trylock(&thread->liveness);
    return rc == 0; /* EBUSY: a thread that is just leaving */
}

static void mark_used(struct ss_namespace *ns, struct thread_slot *thread)
{
    if (load32_relaxed(&thread->generation) == 0)
        undo_write32(ns, &thread->generation, 1);
    undo_write32(ns, &thread->state, SS_SLOT_USED);
    undo_write32(ns, &thread->process, ns->process);
    undo_write32(ns, &thread->tid, thread_number());
    undo_write32(ns, &thread->wait_kind, SS_WAIT_NONE);
    undo_commit(ns);
}

static int claim_thread(struct ss_namespace *ns, uint32_t *slot)
{
    struct control *control = segment_control(ns);
    uint32_t fresh = segment_bounded(&control->threads_fresh, ns->geometry.threads);
    struct thread_slot *thread;

    for (*slot = 0; *slot < fresh; ++*slot) {
        thread = segment_thread(ns, *slot);
        if (load32_relaxed(&thread->state) == SS_SLOT_FREE && lock_liveness(thread)) {
            mark_used(ns, thread);
            return 0;
        }
    }
    if (fresh >= ns->geometry.threads)
        return -EUSERS;
    thread = segment_thread(ns, fresh);
    if (robust_init(&thread->liveness) < 0 || robust_trylock(&thread->liveness) < 0)
        return -EBADMSG;
    undo_write32(ns, &control->threads_fresh, fresh + 1);
    mark_used(ns, thread);
    return 0;
}

static int register_thread(struct ss_namespace *ns, struct registration *self)
{
    int rc = gate_lock(ns);

    if (rc < 0)
        return rc;
    rc = claim_thread(ns, &self->slot);
    if (rc == -EUSERS) {
        owner_reap_threads(ns);
        rc = claim_thread(ns, &self->slot);
        if (rc == -EUSERS && owner_burial_is_pending(ns))
            rc = -EOWNERDEAD;
    }
    if (rc == 0)
        self->id = owner_id(self->slot, load32_relaxed(&segment_thread(ns, self->slot)->generation));
    gate_unlock(ns);
    return rc;
}

int owner_register(struct ss_namespace *ns, struct registration **out)
{
    struct registration *self = owner_registered(ns);
    int rc = 0;

    *out = self;
    if (self != NULL)
        return 0;
    if (ns->engine->sweeps) {
        registry_lock();
        rc = sweeper_start(ns); /* it runs since the attach, but not in a forked child */
        registry_unlock();
    }
    if (rc < 0)
        return rc;
    self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->ns = ns;
    rc = register_thread(ns, self);
    if (rc == -EOWNERDEAD)
        rc = owner_await_burial(ns);
    if (rc < 0) {
        free(self);
        return rc;
    }
    pthread_once(&registrations_once, create_key);
    self->next = per_thread(registrations);
    per_thread(registrations) = *out = self;
    pthread_setspecific(registrations_key, self);
    return 0;
}

/* ---- leaving ---- */

static bool owns_a_mutex(struct ss_namespace *ns, uint32_t id)
{
    uint32_t end = segment_bounded(&segment_control(ns)->objects_fresh, ns->geometry.capacity);
    struct ss_state state;

    for (uint32_t i = 0; i < end; i++) {
        const struct object *object = segment_object(ns, i);

        if (load32_relaxed(&object->kind) != SS_MUTEX)
            continue;
        ns->engine->peek(object, SS_MUTEX, &state);
        if (state.owner == id)
            return true;
    }
    return false;
}

/* Marks a slot free under a new generation, so that ids of its last thread count as dead. */
static void free_thread(struct ss_namespace *ns, struct thread_slot *thread)
{
    uint32_t generation = load32_relaxed(&thread->generation) & SS_GENERATION_MAX;

    undo_write32(ns, &thread->state, SS_SLOT_FREE);
    undo_write32(ns, &thread->generation, generation % SS_GENERATION_MAX + 1);
    undo_write32(ns, &thread->wait_kind, SS_WAIT_NONE);
    undo_write32(ns, &thread->result, 0);
    undo_commit(ns);
}

int owner_deregister(struct ss_namespace *ns)
{
    struct registration **link = &per_thread(registrations);
    struct registration *self;
    int rc;

    while (*link != NULL && (*link)->ns != ns)
        link = &(*link)->next;
    self = *link;
    if (self == NULL)
        return 0;
    rc = gate_lock(ns);
    if (rc < 0)
        return rc;
    if (owns_a_mutex(ns, self->id)) {
        gate_unlock(ns);
        return -EBUSY;
    }
    rc = ns->engine->forget_wait == NULL ? 0 : ns->engine->forget_wait(ns, self->slot);
    if (rc < 0) {
        gate_unlock(ns);
        return rc; /* damaged: the slot stays linked where it is */
    }
    free_thread(ns, segment_thread(ns, self->slot));
    robust_unlock(&segment_thread(ns, self->slot)->liveness);
    gate_unlock(ns);
    *link = self->next;
    pthread_setspecific(registrations_key, per_thread(registrations));
    atomic_fetch_add(&registrations_ended, 1);
    free(self);
    return 0;
}

/* ---- reaping threads ----
 *
 * In three transactions, or more: the thread leaves all queues and its slot is marked dead; each mutex that it owns is
 * abandoned; the slot is freed. A reaper that dies in between leaves a slot marked dead; whoever recovers buries it.
 */

/* `rc` is what trylock said of the slot's liveness mutex; it is locked unless that was ENOTRECOVERABLE. */
static void mark_dead(struct ss_namespace *ns, uint32_t slot, int rc)
{
    struct thread_slot *thread = segment_thread(ns, slot);

    if (ns->engine->leave_queues != NULL && ns->engine->leave_queues(ns, slot) < 0)
        undo_abort(ns); /* damaged: whoever walks those queues says so */
    undo_write32(ns, &thread->state, SS_SLOT_DEAD);
    undo_write32(ns, &thread->wait_kind, SS_WAIT_NONE);
    undo_write32(ns, &thread->result, 0);
    undo_commit(ns);
    ns->unburied = true;
    /* From here on the mark says what the mutex said. */
    if (rc == -ENOTRECOVERABLE) {
        robust_init(&thread->liveness);
        return;
    }
    if (rc == -EOWNERDEAD)
        robust_consistent(&thread->liveness);
    robust_unlock(&thread->liveness);
}

bool owner_slot_is_alive(struct ss_namespace *ns, uint32_t slot)
{
    struct thread_slot *thread = segment_thread(ns, slot);
    int rc;

    if (load32_relaxed(&thread->state) != SS_SLOT_USED)
        return false;
    rc = robust_trylock(&thread->liveness);
    if (rc != 0 && rc != -EOWNERDEAD && rc != -ENOTRECOVERABLE)
        return true;
    mark_dead(ns, slot, rc);
    return false;
}

/* An id of a generation that is not its slot's is a dead thread's, whoever has the slot now. */
bool owner_is_alive(struct ss_namespace *ns, uint32_t id)
{
    uint32_t slot = owner_slot(id);

    return slot < ns->geometry.threads &&
           id == owner_id(slot, load32_relaxed(&segment_thread(ns, slot)->generation)) &&
           owner_slot_is_alive(ns, slot);
}

/* Also frees what only the dead thread's waiting, or owning, kept alive. */
static void bury(struct ss_namespace *ns, uint32_t slot)
{
    struct thread_slot *thread = segment_thread(ns, slot);
    uint32_t id = owner_id(slot, load32_relaxed(&thread->generation));
    uint32_t end = segment_bounded(&segment_control(ns)->objects_fresh, ns->geometry.capacity);
    struct ss_state state;

    for (uint32_t i = 0; i < end; i++) {
        struct object *object = segment_object(ns, i);

        if (load32_relaxed(&object->kind) == SS_MUTEX) {
            ns->engine->peek(object, SS_MUTEX, &state);
            if (state.owner == id || ns->engine->owner_is_a_hint)
                ns->engine->mutex_kill(ns, object, id);
        }
        if (load32_relaxed(&object->users) == 0)
            directory_free_if_unused(ns, i);
    }
    free_thread(ns, thread);
}

void owner_bury_dead(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);

    while (ns->unburied && ns->buries) { /* a mutex's next owner may be found dead as well */
        ns->unburied = false;
        for (uint32_t slot = 0; slot < end; slot++) {
            if (load32_relaxed(&segment_thread(ns, slot)->state) == SS_SLOT_DEAD)
                bury(ns, slot);
        }
    }
}

bool owner_burial_is_pending(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);

    for (uint32_t slot = 0; !ns->buries && slot < end; slot++) {
        if (load32_relaxed(&segment_thread(ns, slot)->state) == SS_SLOT_DEAD)
            return true;
    }
    return false;
}

int owner_await_burial(struct ss_namespace *ns)
{
    const struct timespec a_moment = {0, 1000000};

    if (broker_hurry(ns) < 0)
        return -ENOTRECOVERABLE;
    nanosleep(&a_moment, NULL);
    return -EINTR;
}

void owner_reap_threads(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);

    for (uint32_t slot = 0; slot < end; slot++)
        owner_slot_is_alive(ns, slot);
    owner_bury_dead(ns);
}

bool owner_any_of_process(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);

    for (uint32_t slot = 0; slot < end; slot++) {
        if (load32_relaxed(&segment_thread(ns, slot)->process) == ns->process &&
            owner_slot_is_alive(ns, slot))
            return true;
    }
    return false;
}

uint32_t owner_watch(shared32 *word)
{
    for (;;) {
        uint32_t value = load32_acquire(word);

        /* On a free word the bit would never be cleared, and the slot never be found dead. */
        if ((value & ROBUST_TID_MASK) == 0 || (value & ROBUST_OWNER_DIED))
            return 0;
        if ((value & ROBUST_WAITERS) || cas32_acq_rel(word, value, value | ROBUST_WAITERS) == value)
            return value | ROBUST_WAITERS;
    }
}

/* ---- processes ---- */

int owner_claim_process(struct ss_namespace *ns, int fd, uint32_t *slot)
{
    struct control *control = segment_control(ns);
    uint32_t fresh = segment_bounded(&control->processes_fresh, ns->geometry.threads);

    for (uint32_t i = 0; i < ns->geometry.threads; i++) {
        struct process_slot *process = segment_process(ns, i);

        if (i < fresh && load32_relaxed(&process->state) == SS_SLOT_USED)
            continue;
        if (range_lock(fd, SS_LOCK_PROCESS + i, true, false) < 0)
            continue; /* a process that has marked its slot free and is about to close its descriptor */
        if (i >= fresh)
            undo_write32(ns, &control->processes_fresh, i + 1);
        undo_write32(ns, &process->state, SS_SLOT_USED);
        undo_write32(ns, &process->pid, 0);
        undo_commit(ns);
        *slot = i;
        return 0;
    }
    return -EUSERS;
}

/* Calls `change` for each object that a process has open. */
static void each_open(struct ss_namespace *ns, uint32_t process, uint32_t argument,
                      void (*change)(struct ss_namespace *ns, uint32_t argument, uint32_t index))
{
    const shared64 *set = segment_open_set(ns, process);

    for (uint32_t word = 0; word < ns->geometry.set_words; word++) {
        uint64_t bits = load64_relaxed(&set[word]);

        for (uint32_t i = 0; bits != 0; i++, bits >>= 1) {
            if ((bits & 1) && word * 64 + i < ns->geometry.capacity)
                change(ns, argument, word * 64 + i);
        }
    }
}

void owner_free_process(struct ss_namespace *ns, uint32_t slot)
{
    each_open(ns, slot, slot, directory_close);
    undo_write32(ns, &segment_process(ns, slot)->state, SS_SLOT_FREE);
    undo_commit(ns);
}

void owner_copy_open_set(struct ss_namespace *ns, uint32_t from, uint32_t to)
{
    each_open(ns, from, to, directory_open);
}

void owner_reap_processes(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->processes_fresh, ns->geometry.threads);

    for (uint32_t slot = 0; slot < end; slot++) {
        if (slot != ns->process && load32_relaxed(&segment_process(ns, slot)->state) == SS_SLOT_USED &&
            !range_is_locked(ns->fd, SS_LOCK_PROCESS + slot))
            owner_free_process(ns, slot);
    }
}

bool owner_object_in_use(struct ss_namespace *ns, uint32_t index)
{
    uint32_t end = segment_bounded(&segment_control(ns)->processes_fresh, ns->geometry.threads);
    struct object *object = segment_object(ns, index);
    struct ss_state state;

    for (uint32_t slot = 0; slot < end; slot++) {
        if (load32_relaxed(&segment_process(ns, slot)->state) == SS_SLOT_USED &&
            directory_is_open(ns, slot, index) &&
            (slot == ns->process || range_is_locked(ns->fd, SS_LOCK_PROCESS + slot)))
            return true;
    }
    if (load32_relaxed(&object->kind) != SS_MUTEX)
        return false;
    ns->engine->peek(object, SS_MUTEX, &state);
    return state.owner != 0 && owner_is_alive(ns, state.owner);
}

/* Field 22 of /proc/self/stat, clock ticks between boot and the start of the process; 0 without /proc. The
 * second field is the command in parentheses and may contain anything, so counting starts after the last one. */
static uint64_t own_start_time(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    const char *field;

    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    field = strrchr(text, ')');
    for (int number = 2; field != NULL && number < 22; number++)
        field = strchr(field + 1, ' ');
    return field == NULL ? 0 : strtoull(field, NULL, 10);
}

void owner_sign_process(struct ss_namespace *ns, uint32_t slot)
{
    store64_relaxed(&segment_process(ns, slot)->start_time, own_start_time());
    store32_release(&segment_process(ns, slot)->pid, (uint32_t)getpid());
}

/* ---- what a thread waits on ---- */

void owner_publish_wait(struct registration *self, uint32_t kind, const uint32_t *objects, uint32_t count)
{
    struct thread_slot *thread = segment_thread(self->ns, self->slot);

    for (uint32_t i = 0; i < count; i++)
        store32_relaxed(&thread->waits[i], objects[i]);
    store32_relaxed(&thread->wait_count, count);
    store32_release(&thread->wait_kind, kind); /* pairs with the load_acquire in peek.c */
}

void owner_withdraw_wait(struct registration *self)
{
    store32_release(&segment_thread(self->ns, self->slot)->wait_kind, SS_WAIT_NONE);
}
