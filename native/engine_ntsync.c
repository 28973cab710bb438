/* The ntsync engine: Linux's own /dev/ntsync, where there is one.
 *
 * An object is a file descriptor of the driver's, whose state the kernel keeps and changes; every call is one ioctl.
 * The owner of a mutex is our owner id; the driver takes any number but 0 for one.
 *
 *     kind          word0                                    word1
 *     semaphore     count when it was made                   maximum
 *     mutex         owner id; 0 free: a hint                 count when it was made
 *     event         signaled when it was made                unused
 *
 * The hint follows the kernel: an owner stores his id after he has got the mutex, and takes it away after he has given
 * it back, unless another is there by then. So it is right about every living thread that is in no call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "engine.h"

/* ---- making and reading ---- */

static int ntsync_open_device(void)
{
    int fd = open("/dev/ntsync", O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int ntsync_probe(void)
{
    int fd = ntsync_open_device();

    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

static void ntsync_init(struct object *object, const struct ss_state *initial)
{
    uint32_t word0 = initial->signaled;
    uint32_t word1 = 0;

    if (initial->kind == SS_SEMAPHORE) {
        word0 = initial->count;
        word1 = initial->maximum;
    } else if (initial->kind == SS_MUTEX) {
        word0 = initial->owner;
        word1 = initial->count;
    }
    store32_relaxed(&object->word0, word0);
    store32_relaxed(&object->word1, word1);
}

static int ntsync_make(const struct ss_namespace *ns, const struct object *object, uint32_t kind)
{
    uint32_t word0 = load32_acquire(&object->word0);
    uint32_t word1 = load32_acquire(&object->word1);
    struct nt_semaphore semaphore = {.count = word0, .maximum = word1};
    struct nt_mutex mutex = {.owner = word0, .count = word0 == 0 ? 0 : word1};
    struct nt_event event = {.manual = kind == SS_MANUAL_EVENT, .signaled = word0};

    if (kind == SS_SEMAPHORE)
        return device_call(ns->maker, NT_CREATE_SEMAPHORE, &semaphore);
    if (kind == SS_MUTEX)
        return device_call(ns->maker, NT_CREATE_MUTEX, &mutex);
    return device_call(ns->maker, NT_CREATE_EVENT, &event);
}

/* What can be known without asking the kernel: next to nothing. */
static bool ntsync_peek(const struct object *object, uint32_t kind, struct ss_state *state)
{
    *state = (struct ss_state){.kind = kind};
    if (kind == SS_SEMAPHORE)
        state->maximum = load32_relaxed(&object->word1);
    else if (kind == SS_MUTEX)
        state->owner = load32_acquire(&object->word0);
    return true;
}

static int read_mutex(int fd, struct ss_state *state)
{
    struct nt_mutex mutex = {0, 0};
    int rc = device_call(fd, NT_MUTEX_READ, &mutex);

    if (rc < 0 && rc != -EOWNERDEAD)
        return rc;
    state->owner = mutex.owner;
    state->count = mutex.count;
    state->abandoned = rc == -EOWNERDEAD;
    return 0;
}

static int ntsync_read(struct ss_namespace *ns, struct object *object, uint32_t kind, struct ss_state *state)
{
    int fd = descriptor_of(ns, object);
    struct nt_semaphore semaphore = {0, 0};
    struct nt_event event = {0, 0};
    int rc;

    *state = (struct ss_state){.kind = kind};
    if (kind == SS_MUTEX)
        return read_mutex(fd, state);
    if (kind == SS_SEMAPHORE)
        rc = device_call(fd, NT_SEMAPHORE_READ, &semaphore);
    else
        rc = device_call(fd, NT_EVENT_READ, &event);
    state->count = semaphore.count;
    state->maximum = semaphore.maximum;
    state->signaled = event.signaled;
    return rc;
}

/* ---- the single calls ---- */

static int64_t ntsync_semaphore_release(struct ss_namespace *ns, struct object *object, uint32_t count)
{
    int rc = device_call(descriptor_of(ns, object), NT_SEMAPHORE_RELEASE, &count);
    return rc < 0 ? rc : (int64_t)count;
}

static void drop_hint(struct object *object, uint32_t owner)
{
    (void)cas32_acq_rel(&object->word0, owner, 0);
}

static int64_t ntsync_mutex_unlock(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    struct nt_mutex mutex = {.owner = owner};
    int rc = device_call(descriptor_of(ns, object), NT_MUTEX_UNLOCK, &mutex);

    if (rc < 0)
        return rc;
    if (mutex.count == 1)
        drop_hint(object, owner);
    return mutex.count;
}

static int64_t ntsync_mutex_kill(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    int fd = descriptor_of(ns, object);
    int rc = 0; /* a mutex that nobody has asked for is made as a free one */

    if (fd >= 0)
        rc = device_call(fd, NT_MUTEX_KILL, &owner);
    drop_hint(object, owner);
    return rc;
}

static int64_t ntsync_event_set(struct ss_namespace *ns, struct object *object)
{
    uint32_t previous = 0;
    int rc = device_call(descriptor_of(ns, object), NT_EVENT_SET, &previous);
    return rc < 0 ? rc : (int64_t)previous;
}

static int64_t ntsync_event_reset(struct ss_namespace *ns, struct object *object)
{
    uint32_t previous = 0;
    int rc = device_call(descriptor_of(ns, object), NT_EVENT_RESET, &previous);
    return rc < 0 ? rc : (int64_t)previous;
}

static int64_t ntsync_event_pulse(struct ss_namespace *ns, struct object *object)
{
    uint32_t previous = 0;
    int rc = device_call(descriptor_of(ns, object), NT_EVENT_PULSE, &previous);
    return rc < 0 ? rc : (int64_t)previous;
}

/* ---- waiting ---- */

static void take_hint(struct wait *wait, uint32_t i)
{
    if (wait->kinds[i] == SS_MUTEX)
        store32_release(&wait->objects[i]->word0, wait->self->id);
}

/* The driver says that one of the mutexes was abandoned. Of a wait-all, all that were not ours before may be it. */
static void note_abandoned(struct wait *wait, uint32_t i)
{
    struct ss_state state = {.count = 0};

    if (wait->kinds[i] != SS_MUTEX)
        return;
    if (read_mutex(descriptor_of(wait->ns, wait->objects[i]), &state) == 0 && state.count == 1)
        wait->abandoned |= 1ull << i;
}

/* Fills in what the driver is to be asked. */
static int describe_wait(struct wait *wait, struct nt_wait *arguments, int32_t descriptors[SS_WAIT_MAX])
{
    for (uint32_t i = 0; i < wait->count; i++)
        descriptors[i] = descriptor_of(wait->ns, wait->objects[i]);
    *arguments = (struct nt_wait){
        .timeout = wait->deadline_ns,
        .objects = (uint64_t)(uintptr_t)descriptors,
        .count = wait->count,
        .owner = wait->self->id,
        .alert = wait->alert == NULL ? 0 : (uint32_t)descriptor_of(wait->ns, wait->alert),
    };
    if (wait->deadline_ns != 0) {
        if (broker_is_lost(wait->ns)) /* nobody would tell us of an owner's death */
            return -ENOTRECOVERABLE;
        wait_publish(wait);
    }
    return 0;
}

static int ntsync_wait_any(struct wait *wait)
{
    int32_t descriptors[SS_WAIT_MAX];
    struct nt_wait arguments;
    int rc = describe_wait(wait, &arguments, descriptors);

    if (rc == 0)
        rc = device_wait(wait->ns->maker, NT_WAIT_ANY, &arguments);
    if (rc < 0 && rc != -EOWNERDEAD)
        return rc;
    wait->index = arguments.index;
    if (wait->index < wait->count)
        take_hint(wait, wait->index);
    if (rc == -EOWNERDEAD)
        note_abandoned(wait, wait->index);
    return 0;
}

static int ntsync_wait_all(struct wait *wait)
{
    int32_t descriptors[SS_WAIT_MAX];
    struct nt_wait arguments;
    int rc = describe_wait(wait, &arguments, descriptors);

    if (rc == 0)
        rc = device_wait(wait->ns->maker, NT_WAIT_ALL, &arguments);
    if (rc < 0 && rc != -EOWNERDEAD)
        return rc;
    wait->index = arguments.index;
    for (uint32_t i = 0; i < wait->count && wait->index < wait->count; i++) {
        take_hint(wait, i);
        if (rc == -EOWNERDEAD)
            note_abandoned(wait, i);
    }
    return 0;
}

static void ntsync_give_back(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned)
{
    if (descriptor_of(ns, object) < 0)
        return; /* a signal handler has closed the last handle since */
    switch (load32_relaxed(&object->kind)) {
    case SS_SEMAPHORE:
        ntsync_semaphore_release(ns, object, 1);
        break;
    case SS_AUTO_EVENT:
        ntsync_event_set(ns, object);
        break;
    case SS_MUTEX:
        if (abandoned)
            ntsync_mutex_kill(ns, object, owner); /* its next owner is still to be told */
        else
            ntsync_mutex_unlock(ns, object, owner);
        break;
    default:
        break;
    }
}

const struct engine engine_ntsync = {
    .id = SS_ENGINE_NTSYNC,
    .owner_is_a_hint = true,
    .probe = ntsync_probe,
    .init = ntsync_init,
    .make = ntsync_make,
    .open_device = ntsync_open_device,
    .peek = ntsync_peek,
    .read = ntsync_read,
    .semaphore_release = ntsync_semaphore_release,
    .mutex_unlock = ntsync_mutex_unlock,
    .event_set = ntsync_event_set,
    .event_reset = ntsync_event_reset,
    .event_pulse = ntsync_event_pulse,
    .wait_any = ntsync_wait_any,
    .wait_all = ntsync_wait_all,
    .mutex_kill = ntsync_mutex_kill,
    .give_back = ntsync_give_back,
};
