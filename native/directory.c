/* Objects and their names: slots, a chained hash of names, and who has what open. Everything here runs under the
 * gate, and every function is one transaction or none.
 *
 * All indexes and lengths that are read from the segment are checked, and every walk is bounded by the capacity,
 * so that a damaged segment gives -EBADMSG.
 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"

SS_TRANSACTION(10); /* create: 10 entries at most; close and free: 8 */

uint32_t directory_hash(const char *name, uint32_t length)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (uint32_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return hash;
}

/* Follows a link: 1 and the index, 0 at the end, -EBADMSG for a link that leads out of the table. */
static int follow(struct ss_namespace *ns, const shared32 *link, uint32_t *index)
{
    uint32_t value = load32_relaxed(link);

    if (value == 0)
        return 0;
    if (value > ns->geometry.capacity)
        return -EBADMSG;
    *index = value - 1;
    return 1;
}

int directory_find(struct ss_namespace *ns, const char *name, uint32_t length, uint32_t *index)
{
    uint32_t hash = directory_hash(name, length);
    const shared32 *link = segment_bucket(ns, hash);

    for (uint32_t steps = 0; steps <= ns->geometry.capacity; steps++) {
        const struct object *object;
        int rc = follow(ns, link, index);

        if (rc <= 0)
            return rc < 0 ? rc : -ENOENT;
        object = segment_object(ns, *index);
        if (load32_relaxed(&object->hash) == hash && load32_relaxed(&object->name_length) == length &&
            memcmp(segment_name(ns, *index), name, length) == 0)
            return 0;
        link = &object->next;
    }
    return -EBADMSG; /* a chain longer than the table goes in a circle */
}

/* ---- who has what open ---- */

static shared64 *open_word(struct ss_namespace *ns, uint32_t process, uint32_t index)
{
    return segment_open_set(ns, process) + index / 64;
}

static uint64_t open_bit(uint32_t index)
{
    return 1ull << (index % 64);
}

bool directory_is_open(struct ss_namespace *ns, uint32_t process, uint32_t index)
{
    return load64_relaxed(open_word(ns, process, index)) & open_bit(index);
}

static void write_open(struct ss_namespace *ns, uint32_t process, uint32_t index, bool open)
{
    shared64 *word = open_word(ns, process, index);
    uint64_t old = load64_relaxed(word);
    struct object *object = segment_object(ns, index);
    uint32_t users = load32_relaxed(&object->users);

    undo_write64(ns, word, open ? old | open_bit(index) : old & ~open_bit(index));
    undo_write32(ns, &object->users, open ? users + 1 : users > 0 ? users - 1 : 0);
}

void directory_open(struct ss_namespace *ns, uint32_t process, uint32_t index)
{
    if (directory_is_open(ns, process, index))
        return;
    write_open(ns, process, index, true);
    undo_commit(ns);
}

/* ---- slots ---- */

/* Logs the taking of a slot: from the free list, else a fresh one. */
static int take_slot(struct ss_namespace *ns, uint32_t *index)
{
    struct control *control = segment_control(ns);
    int rc = follow(ns, &control->objects_free, index);
    uint32_t fresh;

    if (rc < 0)
        return rc;
    if (rc == 1) {
        undo_write32(ns, &control->objects_free, load32_relaxed(&segment_object(ns, *index)->next));
        return 0;
    }
    fresh = load32_relaxed(&control->objects_fresh);
    if (fresh >= ns->geometry.capacity)
        return -ENOSPC;
    undo_write32(ns, &control->objects_fresh, fresh + 1);
    *index = fresh;
    return 0;
}

int directory_create(struct ss_namespace *ns, const struct ss_open *request, uint32_t owner, uint32_t *index)
{
    struct ss_state initial = request->initial;
    uint32_t hash = directory_hash(request->name, request->name_length);
    shared32 *bucket = segment_bucket(ns, hash);
    struct object *object;
    int rc = take_slot(ns, index);

    if (rc < 0)
        return rc; /* nothing was logged */
    object = segment_object(ns, *index);
    if (owner != 0)
        initial.owner = owner, initial.count = 1;
    /* What nobody can reach yet needs no log. */
    memcpy(segment_name(ns, *index), request->name, request->name_length);
    ns->engine->init(object, &initial);
    store32_relaxed(&object->barging, request->barging);
    store32_relaxed(&object->bargers, 0);
    if (load32_relaxed(&object->generation) == 0)
        undo_write32(ns, &object->generation, 1);
    undo_write32(ns, &object->kind, initial.kind);
    undo_write32(ns, &object->hash, hash);
    undo_write32(ns, &object->name_length, request->name_length);
    undo_write32(ns, &object->users, 0);
    if (request->name_length > 0) {
        undo_write32(ns, &object->next, load32_relaxed(bucket));
        undo_write32(ns, bucket, segment_link(*index));
    } else {
        undo_write32(ns, &object->next, 0);
    }
    write_open(ns, ns->process, *index, true);
    undo_commit(ns);
    return 0;
}

/* The link that leads to a named object, or NULL if its chain is damaged. */
static shared32 *link_to(struct ss_namespace *ns, uint32_t index)
{
    shared32 *link = segment_bucket(ns, load32_relaxed(&segment_object(ns, index)->hash));
    uint32_t found;

    for (uint32_t steps = 0; steps <= ns->geometry.capacity; steps++) {
        if (follow(ns, link, &found) != 1)
            return NULL;
        if (found == index)
            return link;
        link = &segment_object(ns, found)->next;
    }
    return NULL;
}

static bool keep(struct ss_namespace *ns, const struct object *object)
{
    uint32_t kind = load32_relaxed(&object->kind);
    struct ss_state state;

    if (kind == SS_FREE || load32_relaxed(&object->users) > 0)
        return true;
    if (ns->persistent && load32_relaxed(&object->name_length) > 0)
        return true;
    if (load32_relaxed(&object->any.first) != 0 || load32_relaxed(&object->all.first) != 0)
        return true; /* whoever takes the last waiter off the queue comes back here, or buries it */
    if (kind != SS_MUTEX)
        return false;
    ns->engine->peek(object, kind, &state);
    return state.owner != 0; /* a mutex lives while it is owned; reaping its owner comes back here */
}

/* Logs the freeing of a slot, unless something still needs it. */
static void free_slot(struct ss_namespace *ns, uint32_t index)
{
    struct object *object = segment_object(ns, index);
    struct control *control = segment_control(ns);
    uint32_t generation = load32_relaxed(&object->generation);

    if (keep(ns, object))
        return;
    if (load32_relaxed(&object->name_length) > 0) {
        shared32 *link = link_to(ns, index);

        if (link == NULL)
            return; /* damaged: better a lost slot than a wrong chain */
        undo_write32(ns, link, load32_relaxed(&object->next));
    }
    undo_write32(ns, &object->kind, SS_FREE);
    undo_write32(ns, &object->generation, generation + 1 != 0 ? generation + 1 : 1);
    undo_write32(ns, &object->name_length, 0);
    undo_write32(ns, &object->next, load32_relaxed(&control->objects_free));
    undo_write32(ns, &control->objects_free, segment_link(index));
}

void directory_free_if_unused(struct ss_namespace *ns, uint32_t index)
{
    free_slot(ns, index);
    undo_commit(ns);
}

void directory_close(struct ss_namespace *ns, uint32_t process, uint32_t index)
{
    if (!directory_is_open(ns, process, index))
        return;
    if (ns->engine->drop_gone != NULL)
        ns->engine->drop_gone(ns, segment_object(ns, index)); /* they would keep it */
    write_open(ns, process, index, false);
    free_slot(ns, index);
    undo_commit(ns);
}
