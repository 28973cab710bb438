/* Handles and the calls on them: what stands between Python and the engines. Arguments are checked here, in front
 * of every engine; a call in flight keeps its object alive, whatever other threads close meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handle.h"

#include "engine.h"
#include "fast.h"
#include "object.h"

static bool is_event(uint32_t kind)
{
    return kind == SS_AUTO_EVENT || kind == SS_MANUAL_EVENT;
}

/* ---- opening and closing ---- */

static struct ss_handle *handle_new(struct ss_namespace *ns, uint32_t index)
{
    const struct object *object = segment_object(ns, index);
    struct ss_handle *handle = calloc(1, sizeof *handle);

    if (handle == NULL)
        return NULL;
    handle->ns = ns;
    handle->instance = ns->instance;
    handle->index = index;
    handle->generation = load32_relaxed(&object->generation);
    handle->kind = load32_relaxed(&object->kind);
    handle->link = &ns->handles;
    handle->next = ns->handles;
    if (ns->handles != NULL)
        ns->handles->link = &handle->next;
    ns->handles = handle;
    ns->attachments++;
    ns->open_counts[index]++;
    return handle;
}

/* Gives back what a closed handle without calls holds. Registry lock and gate held. The caller takes care of
 * ns->attachments. */
static void give_up(struct ss_handle *handle)
{
    struct ss_namespace *ns = handle->ns;

    if (!handle->lost && --ns->open_counts[handle->index] == 0) {
        descriptor_close(ns, handle->index);
        if (ns->process != SS_NONE)
            directory_close(ns, ns->process, handle->index);
    }
    *handle->link = handle->next;
    if (handle->next != NULL)
        handle->next->link = handle->link;
    handle->link = NULL;
    if (handle->late)
        ns->closed_handles--;
    if (handle->orphan)
        free(handle);
}

/* The same for those that could not get the gate when it was their turn. */
static void give_up_late_ones(struct ss_namespace *ns)
{
    struct ss_handle *handle = ns->handles;

    while (ns->closed_handles > 0 && handle != NULL) {
        struct ss_handle *next = handle->next;

        if (handle->late) {
            give_up(handle);
            ns->attachments--; /* never to 0: the caller has one */
        }
        handle = next;
    }
}

static int release(struct ss_handle *handle)
{
    struct ss_namespace *ns;
    int rc = 0;

    registry_lock();
    if (handle->link != NULL) {
        ns = handle->ns;
        rc = gate_lock(ns);
        if (rc == 0) {
            give_up(handle);
            give_up_late_ones(ns);
            gate_unlock(ns);
            segment_drop(ns); /* the namespace may be gone after this */
        } else if (!handle->late) {
            handle->late = true;
            ns->closed_handles++;
        }
    }
    registry_unlock();
    return rc;
}

/* Again after -EINTR is fine, and so is closing twice. */
int ss_close(struct ss_handle *handle)
{
    unsigned before = atomic_fetch_or(&handle->state, HANDLE_CLOSED);

    return (before & ~HANDLE_CLOSED) == 0 ? release(handle) : 0;
}

void ss_handle_free(struct ss_handle *handle)
{
    registry_lock();
    if (handle->link == NULL)
        free(handle);
    else
        handle->orphan = true;
    registry_unlock();
}

/* Goes up in each forked child: a wait of the parent's that a signal handler has forked out of is not under way
 * in the child, where no call is in flight. */
static uint32_t forks;

void handles_after_fork(struct ss_namespace *ns)
{
    forks++;
    for (struct ss_handle *handle = ns->handles; handle != NULL; handle = handle->next) {
        unsigned state = atomic_load(&handle->state);

        if ((state & HANDLE_CLOSED) && !handle->late) {
            handle->late = true;
            ns->closed_handles++;
        }
        atomic_store(&handle->state, state & HANDLE_CLOSED);
    }
}

void handles_after_late_entry(struct ss_namespace *ns, uint32_t process)
{
    for (struct ss_handle *handle = ns->handles; handle != NULL; handle = handle->next) {
        const struct object *object = segment_object(ns, handle->index);

        if (handle->lost) /* since an earlier entry */
            continue;
        if (load32_relaxed(&object->kind) == handle->kind &&
            load32_relaxed(&object->generation) == handle->generation) {
            directory_open(ns, process, handle->index);
        } else {
            handle->lost = true;
            ns->open_counts[handle->index]--;
        }
    }
}

/* Finds the object that a request means. 0, or -errno with the kind that is there in request->kind. */
static int find(struct ss_namespace *ns, struct ss_open *request, uint32_t *index)
{
    const struct object *object;
    int rc;

    if (request->flags & SS_BY_SLOT) {
        *index = request->index;
        if (request->index >= ns->geometry.capacity)
            return -ENOENT;
    } else if (request->name_length == 0) {
        return -ENOENT;
    } else {
        rc = directory_find(ns, request->name, request->name_length, index);
        if (rc < 0)
            return rc;
    }
    object = segment_object(ns, *index);
    request->kind = load32_relaxed(&object->kind);
    if (request->kind < SS_SEMAPHORE || request->kind > SS_MANUAL_EVENT)
        return request->flags & SS_BY_SLOT ? -ENOENT : -EBADMSG;
    if ((request->flags & SS_BY_SLOT) && load32_relaxed(&object->generation) != request->generation)
        return -ENOENT;
    return 0;
}

/* As find, but an object whose users are all dead is gone; -EOWNERDEAD: it may be when the dead are buried. */
static int find_living(struct ss_namespace *ns, struct ss_open *request, uint32_t *index)
{
    int rc = find(ns, request, index);

    if (rc < 0 || owner_object_in_use(ns, *index))
        return rc;
    owner_reap_threads(ns);
    owner_reap_processes(ns);
    rc = find(ns, request, index);
    if (rc == 0) {
        directory_free_if_unused(ns, *index); /* its last user was killed while he freed it */
        rc = find(ns, request, index);
    }
    return rc == 0 && owner_burial_is_pending(ns) ? -EOWNERDEAD : rc;
}

static bool kind_fits(uint32_t wanted, uint32_t found)
{
    return wanted == SS_FREE || wanted == found || (is_event(wanted) && is_event(found));
}

static int create(struct ss_namespace *ns, struct ss_open *request, uint32_t owner, uint32_t *index)
{
    int rc = directory_create(ns, request, owner, index);

    if (rc == -ENOSPC) {
        owner_reap_threads(ns);
        owner_reap_processes(ns);
        rc = directory_create(ns, request, owner, index);
        if (rc == -ENOSPC && owner_burial_is_pending(ns))
            rc = -EOWNERDEAD;
    }
    request->created = rc == 0;
    return rc;
}

/* Gate held. */
static int find_or_create(struct ss_namespace *ns, struct ss_open *request, uint32_t owner, uint32_t *index)
{
    int rc = find_living(ns, request, index);

    if (rc == -ENOENT && (request->flags & SS_CREATE))
        return create(ns, request, owner, index);
    if (rc < 0)
        return rc;
    if (!kind_fits(request->initial.kind, request->kind))
        return -EPROTOTYPE;
    if (request->flags & SS_EXCLUSIVE)
        return -EEXIST;
    directory_open(ns, ns->process, *index);
    return 0;
}

/* The object is open in this process: the handle for it, and the descriptor. */
static int handle_open(struct ss_open *request, uint32_t index)
{
    struct ss_namespace *ns = request->ns;
    int rc = descriptor_prepare(ns, index);

    request->fetch = rc == 1;
    if (rc >= 0)
        request->handle = handle_new(ns, index);
    if (request->handle != NULL)
        return 0;
    if (ns->open_counts[index] == 0)
        directory_close(ns, ns->process, index);
    return rc < 0 ? rc : -ENOMEM;
}

static int open_locked(struct ss_open *request)
{
    struct ss_namespace *ns = request->ns;
    struct registration *self = NULL;
    uint32_t index = 0;
    int rc = 0;

    if (request->owned)
        self = owner_registered(ns);
    rc = gate_lock(ns);
    if (rc < 0)
        return rc;
    give_up_late_ones(ns);
    rc = find_or_create(ns, request, self != NULL ? self->id : 0, &index);
    if (rc == 0) {
        request->index = index;
        request->generation = load32_relaxed(&segment_object(ns, index)->generation);
        request->kind = load32_relaxed(&segment_object(ns, index)->kind);
        rc = handle_open(request, index);
    }
    gate_unlock(ns);
    return rc;
}

int ss_open(struct ss_open *request)
{
    struct registration *self;
    int rc = 0;

    request->handle = NULL;
    request->created = request->kind = request->fetch = 0;
    if (request->name_length > SS_NAME_MAX)
        return -EINVAL;
    rc = segment_check(request->ns);
    if (rc == 0 && (request->flags & SS_CREATE))
        rc = object_check(&request->initial);
    if (rc == 0 && request->owned)
        rc = owner_register(request->ns, &self); /* outside the locks that registering takes */
    if (rc < 0)
        return rc;
    registry_lock();
    rc = open_locked(request);
    registry_unlock();
    return rc == -EOWNERDEAD ? owner_await_burial(request->ns) : rc;
}

int ss_open_undo(struct ss_open *request)
{
    struct ss_handle *handle = request->handle;

    if (handle == NULL)
        return 0;
    if (request->owned && request->created && ss_mutex_release(handle) == -EINTR)
        return -EINTR;
    request->handle = NULL;
    ss_handle_free(handle); /* when it is closed */
    ss_close(handle);
    return 0;
}

/* ---- calls in flight ---- */

static struct object *object_of(const struct ss_handle *handle)
{
    return segment_object(handle->ns, handle->index);
}

/* Begins a call: the object stays as long as it is in flight. */
static int enter(struct ss_handle *handle)
{
    unsigned state = atomic_load(&handle->state);

    do {
        if (state & HANDLE_CLOSED)
            return -EBADF;
    } while (!atomic_compare_exchange_weak(&handle->state, &state, state + 1));
    return 0;
}

static void leave(struct ss_handle *handle)
{
    if (atomic_fetch_sub(&handle->state, 1) == (HANDLE_CLOSED | 1))
        release(handle); /* closed while we were in it */
}

/* Is this process one of the segment's, and is the object still what the handle was opened for? */
static int check(const struct ss_handle *handle)
{
    int rc = segment_check(handle->ns);

    if (rc < 0)
        return rc;
    if (handle->lost)
        return -ESTALE;
    return load32_relaxed(&object_of(handle)->kind) == handle->kind ? 0 : -EBADMSG;
}

static int begin(struct ss_handle *handle, bool right_kind)
{
    int rc = right_kind ? enter(handle) : -EPROTOTYPE;

    if (rc < 0)
        return rc;
    rc = check(handle);
    if (rc < 0)
        leave(handle);
    return rc;
}

int64_t ss_semaphore_release(struct ss_handle *handle, uint32_t count)
{
    int64_t result = begin(handle, handle->kind == SS_SEMAPHORE);

    if (result < 0)
        return result;
    result = count < 1 || count > SS_COUNT_MAX
                 ? -EINVAL
                 : handle->ns->engine->semaphore_release(handle->ns, object_of(handle), count);
    leave(handle);
    return result;
}

int64_t ss_mutex_release(struct ss_handle *handle)
{
    int64_t result = begin(handle, handle->kind == SS_MUTEX);
    struct registration *self;

    if (result < 0)
        return result;
    self = owner_registered(handle->ns);
    result = self == NULL ? -EPERM : handle->ns->engine->mutex_unlock(handle->ns, object_of(handle), self->id);
    leave(handle);
    return result;
}

enum event_change { EVENT_SET, EVENT_RESET, EVENT_PULSE };

static int64_t change_event(struct ss_handle *handle, enum event_change change)
{
    int64_t result = begin(handle, is_event(handle->kind));
    const struct engine *engine;

    if (result < 0)
        return result;
    engine = handle->ns->engine;
    if (change == EVENT_SET)
        result = engine->event_set(handle->ns, object_of(handle));
    else if (change == EVENT_RESET)
        result = engine->event_reset(handle->ns, object_of(handle));
    else
        result = engine->event_pulse(handle->ns, object_of(handle));
    leave(handle);
    return result;
}

int64_t ss_event_set(struct ss_handle *handle)
{
    return change_event(handle, EVENT_SET);
}

int64_t ss_event_reset(struct ss_handle *handle)
{
    return change_event(handle, EVENT_RESET);
}

int64_t ss_event_pulse(struct ss_handle *handle)
{
    return change_event(handle, EVENT_PULSE);
}

int ss_read(struct ss_handle *handle, struct ss_state *state)
{
    int rc = begin(handle, true);

    if (rc < 0)
        return rc;
    rc = handle->ns->engine->read(handle->ns, object_of(handle), handle->kind, state);
    leave(handle);
    return rc;
}

/* ---- waiting ---- */

static int check_arguments(const struct ss_wait *request)
{
    const struct ss_namespace *ns;

    if (request->count < 1 || request->count > SS_WAIT_MAX)
        return -E2BIG;
    ns = request->handles[0]->ns;
    for (uint32_t i = 0; i < request->count; i++) {
        const struct ss_handle *handle = request->handles[i];

        if (handle->ns != ns)
            return -EINVAL;
        for (uint32_t other = 0; request->all && other < i; other++) {
            if (request->handles[other]->index == handle->index)
                return -EINVAL; /* one object cannot be taken twice at one instant */
        }
        if (request->all && request->alert != NULL && request->alert->index == handle->index)
            return -EINVAL;
    }
    if (request->alert != NULL && !is_event(request->alert->kind))
        return -EPROTOTYPE;
    if (request->alert != NULL && request->alert->ns != ns)
        return -EINVAL;
    return request->signal != NULL && request->signal->ns != ns ? -EINVAL : 0;
}

/* All handles of a wait, in the order of wait.indexes; the last is the alert, or NULL. */
static struct ss_handle *member(const struct ss_wait *request, uint32_t i)
{
    return i < request->count ? request->handles[i] : request->alert;
}

static void leave_members(const struct ss_wait *request, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (member(request, i) != NULL)
            leave(member(request, i));
    }
}

static int enter_members(const struct ss_wait *request)
{
    int rc;

    for (uint32_t i = 0; i <= request->count; i++) {
        rc = member(request, i) != NULL ? begin(member(request, i), true) : 0;
        if (rc < 0) {
            leave_members(request, i);
            return rc;
        }
    }
    return 0;
}

static void describe_wait(struct ss_wait *request, struct wait *wait)
{
    wait->ns = request->handles[0]->ns;
    wait->count = request->count;
    wait->kind = request->all ? SS_WAIT_ALL : SS_WAIT_ANY;
    wait->published = false;
    wait->deadline_ns = request->deadline_ns;
    wait->barges_until_ns = &request->barges_until_ns;
    wait->stuck_since_ns = &request->stuck_since_ns;
    wait->index = 0;
    wait->abandoned = 0;
    for (uint32_t i = 0; i < request->count; i++) {
        wait->objects[i] = object_of(request->handles[i]);
        wait->kinds[i] = request->handles[i]->kind;
        wait->indexes[i] = request->handles[i]->index;
    }
    wait->alert = NULL;
    if (request->alert != NULL) {
        wait->alert = object_of(request->alert);
        wait->alert_kind = request->alert->kind;
        wait->indexes[request->count] = request->alert->index;
    }
}

void wait_publish(struct wait *wait)
{
    if (wait->published)
        return;
    owner_publish_wait(wait->self, wait->kind, wait->indexes, wait->count + (wait->alert != NULL));
    wait->published = true;
}

/* The signal of a signal-and-wait: whatever that means for its kind. */
static int64_t signal_once(struct ss_handle *handle, uint32_t owner)
{
    int64_t result = begin(handle, true);
    const struct engine *engine;

    if (result < 0)
        return result;
    engine = handle->ns->engine;
    if (handle->kind == SS_SEMAPHORE)
        result = engine->semaphore_release(handle->ns, object_of(handle), 1);
    else if (handle->kind == SS_MUTEX)
        result = engine->mutex_unlock(handle->ns, object_of(handle), owner);
    else
        result = engine->event_set(handle->ns, object_of(handle));
    leave(handle);
    return result;
}

static int wait_entered(struct ss_wait *request)
{
    struct wait wait;
    int64_t rc;

    describe_wait(request, &wait);
    rc = owner_register(wait.ns, &wait.self);
    if (rc == 0 && request->signal != NULL) {
        rc = signal_once(request->signal, wait.self->id);
        if (rc >= 0)
            request->signal = NULL; /* once, however often the wait is interrupted */
    }
    if (rc < 0)
        return (int)rc;
    rc = request->all ? wait.ns->engine->wait_all(&wait) : wait.ns->engine->wait_any(&wait);
    if (rc == 0) {
        request->index = wait.index;
        request->abandoned = wait.abandoned;
        request->taken = forks + 1;
    }
    if (wait.published)
        owner_withdraw_wait(wait.self);
    return (int)rc;
}

int ss_wait(struct ss_wait *request)
{
    int rc = 0;

    if (request->under_way != forks + 1) {
        request->stuck_since_ns = request->barges_until_ns = 0;
        rc = check_arguments(request);
        if (rc == 0)
            rc = enter_members(request);
        if (rc < 0)
            return rc;
    }
    rc = wait_entered(request);
    request->under_way = rc == -EINTR ? forks + 1 : 0;
    if (rc != -EINTR)
        leave_members(request, request->count + 1);
    return rc;
}

/* Undoes one taking of an object, if the object is still there. */
static void put_back(struct ss_namespace *ns, const struct ss_handle *handle, bool abandoned)
{
    struct object *object = segment_object(ns, handle->index);
    struct registration *self = owner_registered(ns);

    if (load32_relaxed(&object->kind) != handle->kind ||
        load32_relaxed(&object->generation) != handle->generation)
        return;
    if (self != NULL) /* as a thread that has waited is, unless it was forked since: it owns nothing then */
        ns->engine->give_back(ns, object, self->id, abandoned);
}

static void put_back_all(struct ss_namespace *ns, const struct ss_wait *request)
{
    if (request->index == request->count) {
        put_back(ns, request->alert, false);
    } else if (!request->all) {
        put_back(ns, request->handles[request->index], request->abandoned != 0);
    } else {
        for (uint32_t i = 0; i < request->count; i++)
            put_back(ns, request->handles[i], request->abandoned >> i & 1);
    }
}

/* Gives up a wait, or puts back what it took. The gate is held for that: an abandonment wants it, and it keeps
 * objects in place whose handles a signal handler has closed since the wait took them. -EINTR: the gate could not be
 * had, and nothing was put back yet. */
int ss_wait_undo(struct ss_wait *request)
{
    struct ss_namespace *ns;
    int rc = 0;

    if (request->under_way == forks + 1)
        leave_members(request, request->count + 1);
    request->under_way = 0;
    if (request->taken != forks + 1) /* nothing, or by the process that this one was forked from */
        return 0;
    registry_lock();
    ns = segment_find(request->handles[0]->instance);
    if (ns != NULL)
        rc = gate_lock(ns);
    if (ns != NULL && rc == 0) {
        put_back_all(ns, request);
        gate_unlock(ns);
    }
    registry_unlock();
    if (rc != -EINTR)
        request->taken = 0;
    return rc;
}

uint64_t ss_fast_table(void)
{
    static const struct fast_table table = {
        .build = FAST_BUILD,
        .registrations_ended = &registrations_ended,
        .registered = owner_registered,
        .wait = ss_wait,
        .wait_undo = ss_wait_undo,
        .mutex_release = ss_mutex_release,
        .semaphore_release = ss_semaphore_release,
        .event_set = ss_event_set,
        .event_reset = ss_event_reset,
        .read = ss_read,
    };

    return (uint64_t)(uintptr_t)&table;
}
