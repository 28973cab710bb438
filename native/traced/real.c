/* The real operations of the seam, for traced steps outside a scheduler: the production variant's own code. This
 * is the one file of the traced module that is compiled against plain/. */
#define _GNU_SOURCE
#include "../plain/atomic.h"
#include "../plain/clock.h"
#include "../plain/futex.h"
#include "../plain/robust.h"
#include "real.h"

uint64_t real_now_ns(void)
{
    return clock_now_ns();
}

uint32_t real_thread_number(void)
{
    return thread_number();
}

int real_sleep(const void *sleeps, uint32_t count, uint64_t deadline_ns)
{
    return futex_waitv(sleeps, count, deadline_ns);
}

int real_wake(void *word, int count)
{
    return futex_wake(word, count);
}

int real_waitv_probe(void)
{
    return futex_waitv_probe();
}

/* Does the kernel refuse an expectation of more than 32 bits (from 6.7 on)? */
bool real_refuses_wide_values(void)
{
    shared32 word = {0};
    struct futex_sleep sleep = {&word, 1ull << 32};

    return futex_waitv(&sleep, 1, clock_now_ns()) == -EINVAL;
}

void real_yield(void)
{
    futex_yield();
}

int real_init(void *mutex)
{
    return robust_init(mutex);
}

bool real_is_intact(const void *mutex)
{
    return robust_is_intact(mutex);
}

int real_trylock(void *mutex)
{
    return robust_trylock(mutex);
}

int real_lock_for(void *mutex, uint64_t duration_ns)
{
    return robust_lock_for(mutex, duration_ns);
}

int real_unlock(void *mutex)
{
    return robust_unlock(mutex);
}

int real_consistent(void *mutex)
{
    return robust_consistent(mutex);
}
