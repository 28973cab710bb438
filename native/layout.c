/* The format's fields as the compiler laid them out, for the test that compares them with the table in layout.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>

#include "api.h"
#include "layout.h"

#define FIELD(structure, member) \
    {#structure, #member, offsetof(struct structure, member), sizeof(((struct structure *)0)->member)}
#define WHOLE(structure) {#structure, 0, sizeof(struct structure), 0}

static const struct ss_layout_field fields[] = {
    FIELD(header, magic),
    FIELD(header, version),
    FIELD(header, abi),
    FIELD(header, engine),
    FIELD(header, flags),
    FIELD(header, capacity),
    FIELD(header, threads),
    FIELD(header, size),
    FIELD(header, created_ns),
    FIELD(header, instance),
    FIELD(header, pid_namespace),
    FIELD(header, boot_id),
    WHOLE(header),
    FIELD(control, gate),
    FIELD(control, server),
    FIELD(control, objects_fresh),
    FIELD(control, objects_free),
    FIELD(control, threads_fresh),
    FIELD(control, processes_fresh),
    FIELD(control, undo_length),
    FIELD(control, pulsing),
    FIELD(control, undo),
    WHOLE(control),
    FIELD(undo_entry, where),
    FIELD(undo_entry, old),
    WHOLE(undo_entry),
    FIELD(process_slot, state),
    FIELD(process_slot, pid),
    FIELD(process_slot, start_time),
    WHOLE(process_slot),
    FIELD(thread_slot, liveness),
    FIELD(thread_slot, state),
    FIELD(thread_slot, generation),
    FIELD(thread_slot, process),
    FIELD(thread_slot, tid),
    FIELD(thread_slot, wait_kind),
    FIELD(thread_slot, wait_count),
    FIELD(thread_slot, wait_alert),
    FIELD(thread_slot, word),
    FIELD(thread_slot, abandoned),
    FIELD(thread_slot, result),
    FIELD(thread_slot, waits),
    FIELD(thread_slot, next),
    FIELD(thread_slot, previous),
    WHOLE(thread_slot),
    FIELD(object, word0),
    FIELD(object, word1),
    FIELD(object, kind),
    FIELD(object, generation),
    FIELD(object, users),
    FIELD(object, next),
    FIELD(object, hash),
    FIELD(object, name_length),
    FIELD(object, any),
    FIELD(object, all),
    FIELD(object, maximum),
    FIELD(object, barging),
    FIELD(object, bargers),
    WHOLE(object),
};

/* 0 and a row of the table, -ENOENT after the last. */
int ss_layout_field(uint32_t number, struct ss_layout_field *out)
{
    if (number >= sizeof fields / sizeof fields[0])
        return -ENOENT;
    *out = fields[number];
    return 0;
}

uint64_t ss_layout_size(uint32_t capacity, uint32_t threads)
{
    return geometry_of(capacity, threads).size;
}
