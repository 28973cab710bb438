/* Emulated eventfds: counters, and the steps on them. A thread that polls sleeps in the scheduler until a write wakes
 * it, and then looks again, which is a step of its own: somebody else may have read meanwhile. */
#define _GNU_SOURCE
#include "eventfd.h"

#include <string.h>
#include <unistd.h>

#include "scheduler.h"

#include "real.h"

/* No descriptor of the system's has such a number. */
#define FIRST (1 << 24)
#define COUNTERS_MAX 1024
#define COUNTER_LIMIT (UINT64_MAX - 1)

struct counter {
    uint64_t value;
    bool semaphore;
    bool used;
};

static struct counter counters[COUNTERS_MAX];
static struct counter kept[COUNTERS_MAX];

static struct counter *counter_of(int fd)
{
    return &counters[fd - FIRST];
}

const uint64_t *eventfd_counter(int fd)
{
    return fd >= FIRST && fd < FIRST + COUNTERS_MAX ? &counter_of(fd)->value : NULL;
}

void eventfd_keep(void)
{
    memcpy(kept, counters, sizeof kept);
}

void eventfd_restore(void)
{
    memcpy(counters, kept, sizeof kept);
}

int eventfd_make(uint32_t initial, bool semaphore)
{
    for (int i = 0; i < COUNTERS_MAX; i++) {
        if (!counters[i].used) {
            counters[i] = (struct counter){initial, semaphore, true};
            return FIRST + i;
        }
    }
    return -EMFILE;
}

void eventfd_close(int fd)
{
    if (eventfd_counter(fd) == NULL)
        close(fd);
    else
        counter_of(fd)->used = false;
}

uint64_t step_take(const struct step_site *site, int fd)
{
    struct counter *counter = counter_of(fd);
    uint64_t old, taken;

    step_begin(site, &counter->value, true);
    old = counter->value;
    taken = counter->semaphore && old > 0 ? 1 : old;
    counter->value -= taken;
    step_note(site, SCHED_STEP, &counter->value, old, counter->value, (int64_t)taken);
    return taken;
}

bool step_add(const struct step_site *site, int fd, uint64_t value)
{
    struct counter *counter = counter_of(fd);
    uint64_t old;
    bool fits;

    step_begin(site, &counter->value, true);
    old = counter->value;
    fits = value <= COUNTER_LIMIT - old;
    counter->value += fits ? value : 0;
    step_note(site, SCHED_STEP, &counter->value, old, counter->value, fits);
    if (counter->value > 0 && step_self() != 0)
        sched_wake(&counter->value, INT_MAX);
    return fits;
}

static int look(struct eventfd_look *looks, uint32_t count)
{
    int readable = 0;

    for (uint32_t i = 0; i < count; i++) {
        looks[i].readable = counter_of(looks[i].fd)->value > 0;
        readable += looks[i].readable;
    }
    return readable;
}

/* Outside a scheduler nobody tells a sleeper: it looks now and then. */
static int poll_outside(const struct step_site *site, struct eventfd_look *looks, uint32_t count, uint64_t deadline_ns)
{
    const uint64_t *first = eventfd_counter(looks[0].fd);
    int readable;

    step_begin(site, first, false);
    while ((readable = look(looks, count)) == 0 && real_now_ns() < deadline_ns)
        real_yield();
    step_note(site, SCHED_STEP, first, count, (uint64_t)readable, readable);
    return readable;
}

int step_poll(const struct step_site *site, struct eventfd_look *looks, uint32_t count, uint64_t deadline_ns)
{
    struct futex_sleep sleeps[FUTEX_SLEEP_MAX];
    const uint64_t *first = eventfd_counter(looks[0].fd);
    int readable, woken = 0;

    if (step_self() == 0)
        return poll_outside(site, looks, count, deadline_ns);
    for (uint32_t i = 0; i < count; i++)
        sleeps[i].word = (const shared32 *)(const void *)eventfd_counter(looks[i].fd);
    for (;;) {
        bool over;

        sched_await_any(site, sleeps, count, deadline_ns);
        readable = look(looks, count);
        over = readable > 0 || woken == -ETIMEDOUT || deadline_ns <= sched_now_ns();
        step_note(site, SCHED_STEP, first, count, (uint64_t)readable, over ? readable : -EAGAIN);
        if (over)
            return readable;
        woken = sched_doze();
    }
}
