/* Descriptors, for engines whose objects are file descriptors.
 *
 * The directory, the names and the generations of such objects are in the segment like everybody's. An object's
 * descriptor is made by the namespace's broker (shmsync/broker.py) when somebody first asks for it, of what the
 * object's words say then: nobody can have changed it before. Each process asks once for each object that it has
 * open, and keeps the descriptor in a table by the object's index until it closes its last handle.
 *
 * The broker is a process that maps the segment without being one of its users. While it serves it holds the
 * segment's server mutex, whose word therefore tells for good that it was killed: with it go objects that nobody
 * could make again. It alone abandons the mutexes of dead threads, since nobody else has every descriptor.
 *
 * In the traced build there is no broker: all "processes" are threads of one, which makes descriptors itself.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "eventfd.h"
#include "handle.h"

/* Dead processes matter less than dead threads, closed objects too. */
#define ROUNDS_PER_COLLECTION 20

struct descriptor {
    uint32_t link; /* descriptor + 1; 0: none */
    uint32_t generation;
};

int descriptors_begin(struct ss_namespace *ns)
{
    ns->maker = ns->broker = -1;
    ns->buries = true;
    if (ns->engine->make == NULL)
        return 0;
    ns->buries = !OBJECTS_COME_FROM_A_BROKER;
    ns->descriptors = calloc(ns->geometry.capacity, sizeof *ns->descriptors);
    if (ns->descriptors == NULL)
        return -ENOMEM;
    if (!OBJECTS_COME_FROM_A_BROKER && ns->engine->open_device != NULL)
        ns->maker = ns->engine->open_device();
    return 0;
}

void descriptors_end(struct ss_namespace *ns)
{
    if (ns->descriptors == NULL)
        return;
    for (uint32_t i = 0; i < segment_bounded(&segment_control(ns)->objects_fresh, ns->geometry.capacity); i++)
        descriptor_close(ns, i);
    free(ns->descriptors);
    if (ns->maker >= 0)
        close(ns->maker);
    if (ns->broker >= 0)
        close(ns->broker);
}

/* ---- the table ---- */

int descriptor_of(const struct ss_namespace *ns, const struct object *object)
{
    return (int)ns->descriptors[segment_object_index(ns, object)].link - 1;
}

void descriptor_close(struct ss_namespace *ns, uint32_t index)
{
    if (ns->descriptors == NULL || ns->descriptors[index].link == 0)
        return;
    eventfd_close((int)ns->descriptors[index].link - 1);
    ns->descriptors[index].link = 0;
}

static bool has_descriptor(struct ss_namespace *ns, uint32_t index)
{
    const struct descriptor *descriptor = &ns->descriptors[index];

    return descriptor->link != 0 &&
           descriptor->generation == load32_relaxed(&segment_object(ns, index)->generation);
}

static void keep_descriptor(struct ss_namespace *ns, uint32_t index, uint32_t generation, int fd)
{
    descriptor_close(ns, index);
    ns->descriptors[index].generation = generation;
    ns->descriptors[index].link = (uint32_t)fd + 1;
}

/* The descriptor of an object that is there, made if need be. Gate held. */
static int make_descriptor(struct ss_namespace *ns, uint32_t index)
{
    const struct object *object = segment_object(ns, index);
    int fd;

    if (has_descriptor(ns, index))
        return descriptor_of(ns, object);
    fd = ns->engine->make(ns, object, load32_relaxed(&object->kind));
    if (fd >= 0)
        keep_descriptor(ns, index, load32_relaxed(&object->generation), fd);
    return fd;
}

int descriptor_prepare(struct ss_namespace *ns, uint32_t index)
{
    int fd;

    if (ns->descriptors == NULL)
        return 0;
    if (OBJECTS_COME_FROM_A_BROKER)
        return !has_descriptor(ns, index);
    fd = make_descriptor(ns, index);
    return fd < 0 ? fd : 0;
}

/* Several threads may have asked at the same time: the last answer is as good as the first. */
void ss_descriptor_adopt(struct ss_handle *handle, int fd)
{
    registry_lock();
    if (handle->link != NULL && !has_descriptor(handle->ns, handle->index))
        keep_descriptor(handle->ns, handle->index, handle->generation, fd);
    else
        close(fd);
    registry_unlock();
}

/* ---- the broker, as its clients see it ---- */

uint32_t ss_needs_broker(const struct ss_namespace *ns)
{
    return OBJECTS_COME_FROM_A_BROKER && ns->descriptors != NULL && ns->broker < 0;
}

int ss_broker_state(const struct ss_namespace *ns)
{
    uint32_t word = load32_acquire(robust_word(&segment_control(ns)->server));

    if (word & ROBUST_OWNER_DIED)
        return -ENOTRECOVERABLE;
    return (word & ROBUST_TID_MASK) != 0;
}

void ss_broker_joined(struct ss_namespace *ns, int connection, int device)
{
    registry_lock();
    if (ns->broker >= 0)
        close(ns->broker); /* another thread was faster */
    ns->broker = connection;
    if (ns->maker < 0)
        ns->maker = device;
    else if (device >= 0)
        close(device);
    registry_unlock();
}

void ss_broker_lost(struct ss_namespace *ns)
{
    ns->deserted = true;
}

bool broker_is_lost(struct ss_namespace *ns)
{
    struct pollfd connection = {.fd = ns->broker};

    if (ns->broker >= 0 && poll(&connection, 1, 0) > 0)
        ns->deserted = true;
    return ns->deserted;
}

int broker_hurry(struct ss_namespace *ns)
{
    if (ns->broker >= 0 && send(ns->broker, "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        ns->deserted = true;
    return ns->deserted ? -ENOTRECOVERABLE : 0;
}

void broker_forget(struct ss_namespace *ns)
{
    if (ns->descriptors != NULL && ss_broker_state(ns) < 0)
        robust_init(&segment_control(ns)->server);
}

/* ---- the broker's own side ---- */

int ss_serve_device(const struct ss_namespace *ns)
{
    return ns->maker;
}

int ss_serve_descriptor(struct ss_namespace *ns, uint32_t index, uint32_t generation)
{
    const struct object *object;
    int rc;

    if (index >= ns->geometry.capacity)
        return -EINVAL;
    rc = gate_lock(ns);
    if (rc < 0)
        return rc;
    object = segment_object(ns, index);
    if (load32_relaxed(&object->kind) == SS_FREE || load32_relaxed(&object->generation) != generation)
        rc = -ESTALE;
    else
        rc = make_descriptor(ns, index);
    gate_unlock(ns);
    return rc;
}

/* Gate held. */
static void collect_descriptors(struct ss_namespace *ns)
{
    uint32_t end = segment_bounded(&segment_control(ns)->objects_fresh, ns->geometry.capacity);

    for (uint32_t i = 0; i < end; i++) {
        if (load32_relaxed(&segment_object(ns, i)->kind) == SS_FREE || !has_descriptor(ns, i))
            descriptor_close(ns, i);
    }
}

int ss_serve_round(struct ss_namespace *ns)
{
    static uint32_t rounds;
    int rc;

    if (!range_is_locked(ns->fd, SS_LOCK_USE))
        return 0;
    rc = gate_lock(ns);
    if (rc < 0)
        return rc == -EINTR ? 1 : rc;
    ns->unburied = true; /* whoever met dead threads has left them to us */
    owner_reap_threads(ns);
    if (++rounds % ROUNDS_PER_COLLECTION == 0) {
        owner_reap_processes(ns);
        collect_descriptors(ns);
    }
    gate_unlock(ns);
    return 1;
}
