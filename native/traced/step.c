/* Steps: counting, recording, killing before one, and naming the words they touch. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "scheduler.h"

#include "device.h"
#include "engine.h"
#include "eventfd.h"
#include "futex.h"
#include "real.h"

static const char *const op_names[] = {
    "load",   "store",      "swap", "cas",   "or",   "sleep",   "wake", "yield", "init", "trylock", "lock",
    "unlock", "consistent", "read", "write", "poll", "ioctl", "wait", "history",
};

struct record {
    const struct step_site *site;
    uint64_t address;
    uint64_t old;
    uint64_t now;
    int64_t result;
    uint32_t thread;
    uint32_t kind;
};

static uint64_t steps;                  /* taken by this process */
static uint64_t kill_before = UINT64_MAX, stop_before = UINT64_MAX;
static bool recording;
static struct record *records;
static uint32_t record_count, record_room;

void step_kill_before(uint64_t number)
{
    kill_before = number;
}

void step_stop_before(uint64_t number)
{
    stop_before = number;
}

void step_count_from_0(void)
{
    steps = 0;
}

uint64_t step_count(void)
{
    return steps;
}

void step_record(uint32_t on)
{
    recording = on != 0;
    if (recording)
        record_count = 0;
}

uint32_t step_recorded(void)
{
    return record_count;
}

const char *step_op_name(enum step_op op)
{
    return op_names[op];
}

int step_get(uint32_t number, struct step_view *out)
{
    const struct record *record;

    if (number >= record_count)
        return -ENOENT;
    record = &records[number];
    *out = (struct step_view){.thread = record->thread, .kind = record->kind, .address = record->address};
    out->old = record->old;
    out->now = record->now;
    out->result = record->result;
    if (record->site != NULL) {
        out->op = record->site->op;
        out->op_name = op_names[record->site->op];
        out->line = record->site->line;
        out->file = record->site->file;
        out->text = record->site->text;
    }
    return 0;
}

void step_note(const struct step_site *site, uint32_t kind, const void *address, uint64_t old, uint64_t now,
               int64_t result)
{
    if (!recording || sched_is_free_running())
        return;
    if (record_count == record_room) {
        record_room = record_room == 0 ? 1024 : 2 * record_room;
        records = realloc(records, record_room * sizeof *records);
        if (records == NULL)
            abort();
    }
    records[record_count++] = (struct record){site,   (uint64_t)(uintptr_t)address, old, now, result,
                                              step_self() == 0 ? SS_NONE : step_self() - 1, kind};
}

void step_begin(const struct step_site *site, const void *address, bool writes)
{
    if (step_self() != 0)
        sched_await(site, address, writes);
    if (steps == kill_before)
        kill(getpid(), SIGKILL);
    if (steps == stop_before)
        kill(getpid(), SIGSTOP);
    steps++;
}

static uint64_t get(const void *word, uint32_t width)
{
    return width == 4 ? __atomic_load_n((const uint32_t *)word, __ATOMIC_SEQ_CST)
                      : __atomic_load_n((const uint64_t *)word, __ATOMIC_SEQ_CST);
}

uint64_t step_load(const struct step_site *site, const void *word, uint32_t width)
{
    uint64_t value;

    step_begin(site, word, false);
    value = get(word, width);
    step_note(site, SCHED_STEP, word, value, value, 0);
    return value;
}

void step_store(const struct step_site *site, void *word, uint32_t width, uint64_t value)
{
    uint64_t old;

    step_begin(site, word, true);
    old = get(word, width);
    if (width == 4)
        __atomic_store_n((uint32_t *)word, (uint32_t)value, __ATOMIC_SEQ_CST);
    else
        __atomic_store_n((uint64_t *)word, value, __ATOMIC_SEQ_CST);
    step_note(site, SCHED_STEP, word, old, value, 0);
}

uint64_t step_swap(const struct step_site *site, void *word, uint32_t width, uint64_t value)
{
    uint64_t old;

    step_begin(site, word, true);
    old = width == 4 ? __atomic_exchange_n((uint32_t *)word, (uint32_t)value, __ATOMIC_SEQ_CST)
                     : __atomic_exchange_n((uint64_t *)word, value, __ATOMIC_SEQ_CST);
    step_note(site, SCHED_STEP, word, old, value, 1);
    return old;
}

uint64_t step_cas(const struct step_site *site, void *word, uint32_t width, uint64_t expected, uint64_t value)
{
    uint64_t old = expected;
    uint32_t old32 = (uint32_t)expected;
    bool swapped;

    step_begin(site, word, true);
    if (width == 4) {
        swapped = __atomic_compare_exchange_n((uint32_t *)word, &old32, (uint32_t)value, false, __ATOMIC_SEQ_CST,
                                              __ATOMIC_SEQ_CST);
        old = old32;
    } else {
        swapped = __atomic_compare_exchange_n((uint64_t *)word, &old, value, false, __ATOMIC_SEQ_CST,
                                              __ATOMIC_SEQ_CST);
    }
    step_note(site, SCHED_STEP, word, old, swapped ? value : old, swapped);
    return old;
}

uint64_t step_or(const struct step_site *site, void *word, uint64_t bits)
{
    uint64_t old;

    step_begin(site, word, true);
    old = __atomic_fetch_or((uint64_t *)word, bits, __ATOMIC_SEQ_CST);
    step_note(site, SCHED_STEP, word, old, old | bits, 1);
    return old;
}

/* ---- sleeping, waking, time ---- */

int step_sleep(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count, uint64_t deadline_ns)
{
    int rc;

    if (step_self() != 0)
        return sched_sleep(site, sleeps, count, deadline_ns);
    step_begin(site, sleeps[0].word, false);
    rc = real_sleep(sleeps, count, deadline_ns);
    step_note(site, SCHED_STEP, sleeps[0].word, sleeps[0].expected, get(sleeps[0].word, 4), rc);
    return rc;
}

int step_wake(const struct step_site *site, shared32 *word, int count)
{
    int rc;

    step_begin(site, word, true);
    rc = step_self() != 0 ? sched_wake(word, count) : real_wake(word, count);
    step_note(site, SCHED_STEP, word, get(word, 4), get(word, 4), rc);
    return rc;
}

void step_yield(const struct step_site *site)
{
    step_begin(site, NULL, false);
    if (step_self() == 0)
        real_yield();
    step_note(site, SCHED_STEP, NULL, 0, 0, 0);
}

int futex_waitv_probe(void)
{
    return real_waitv_probe();
}

uint64_t clock_now_ns(void)
{
    return step_self() != 0 ? sched_now_ns() : real_now_ns();
}

uint32_t thread_number(void)
{
    return step_self() != 0 ? sched_tid(step_self() - 1) : real_thread_number();
}

/* ---- robust mutexes ---- */

static int note_mutex(const struct step_site *site, robust_mutex *m, uint64_t old, int rc)
{
    step_note(site, SCHED_STEP, m, old, get(m, 4), rc);
    return rc;
}

int step_robust_init(const struct step_site *site, robust_mutex *m)
{
    uint64_t old;

    step_begin(site, m, true);
    old = get(m, 4);
    return note_mutex(site, m, old, real_init(m));
}

int step_trylock(const struct step_site *site, robust_mutex *m)
{
    uint64_t old;

    step_begin(site, m, true);
    old = get(m, 4);
    return note_mutex(site, m, old, step_self() != 0 ? sched_trylock(m) : real_trylock(m));
}

int step_lock_for(const struct step_site *site, robust_mutex *m, uint64_t duration_ns)
{
    uint64_t old;

    step_begin(site, m, true); /* under a scheduler it comes back when the mutex can be had */
    old = get(m, 4);
    return note_mutex(site, m, old, step_self() != 0 ? sched_lock_for(m) : real_lock_for(m, duration_ns));
}

int step_unlock(const struct step_site *site, robust_mutex *m)
{
    uint64_t old;

    step_begin(site, m, true);
    old = get(m, 4);
    return note_mutex(site, m, old, step_self() != 0 ? sched_unlock(m) : real_unlock(m));
}

int step_consistent(const struct step_site *site, robust_mutex *m)
{
    uint64_t old;

    step_begin(site, m, true);
    old = get(m, 4);
    return note_mutex(site, m, old, step_self() != 0 ? sched_consistent(m) : real_consistent(m));
}

/* ---- names ---- */

static const char *field_at(const char *structure, uint64_t offset)
{
    struct ss_layout_field field;

    for (uint32_t i = 0; ss_layout_field(i, &field) == 0; i++) {
        const char *a = field.structure, *b = structure;

        while (*a != '\0' && *a == *b)
            a++, b++;
        if (*a == *b && field.field != NULL && offset >= field.offset && offset < field.offset + field.size)
            return field.field;
    }
    return "?";
}

static int name_slot(char *out, uint32_t size, const char *prefix, const char *structure, uint64_t offset,
                     uint64_t slot_size)
{
    return snprintf(out, size, "%s %llu %s", prefix, (unsigned long long)(offset / slot_size),
                    field_at(structure, offset % slot_size));
}

/* What is in no segment: what an object's descriptor stands for, or nothing that we know. */
static int name_outside(const struct ss_namespace *ns, uint64_t address, char *out, uint32_t size)
{
    uint32_t end = segment_control(ns)->objects_fresh.word_;

    for (uint32_t i = 0; ns->descriptors != NULL && i < end; i++) {
        int fd = descriptor_of(ns, segment_object(ns, i));

        if (address == (uint64_t)(uintptr_t)eventfd_counter(fd))
            return snprintf(out, size, "object %u eventfd", i);
        if (address == (uint64_t)(uintptr_t)device_object(fd))
            return snprintf(out, size, "object %u device", i);
    }
    return snprintf(out, size, "private");
}

int step_name(const struct ss_namespace *ns, uint64_t address, char *out, uint32_t size)
{
    const struct geometry *g = &ns->geometry;
    uint64_t offset = address - (uint64_t)(uintptr_t)ns->base;

    if (address < (uint64_t)(uintptr_t)ns->base || offset >= g->size)
        return name_outside(ns, address, out, size);
    if (offset < sizeof(struct header))
        return snprintf(out, size, "header %s", field_at("header", offset));
    if (offset < g->processes_at)
        return snprintf(out, size, "%s", field_at("control", offset - sizeof(struct header)));
    if (offset < g->open_sets_at)
        return name_slot(out, size, "process", "process_slot", offset - g->processes_at, sizeof(struct process_slot));
    if (offset < g->threads_at)
        return snprintf(out, size, "open set of process %llu",
                        (unsigned long long)((offset - g->open_sets_at) / (8ull * g->set_words)));
    if (offset < g->buckets_at)
        return name_slot(out, size, "thread", "thread_slot", offset - g->threads_at, sizeof(struct thread_slot));
    if (offset < g->objects_at)
        return snprintf(out, size, "bucket %llu", (unsigned long long)((offset - g->buckets_at) / 4));
    if (offset < g->names_at)
        return name_slot(out, size, "object", "object", offset - g->objects_at, sizeof(struct object));
    return snprintf(out, size, "names");
}
