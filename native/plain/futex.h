/* The seam, part 2 of 6: sleeping and waking. The production variant: the system calls themselves.
 *
 * All functions return 0 or a positive count on success and -errno on failure. Deadlines are absolute
 * CLOCK_MONOTONIC times in nanoseconds; SS_FOREVER never comes. Words are shared between processes, so
 * the "private" futex flag is never used.
 */
#ifndef SS_FUTEX_H
#define SS_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"
#include "clock.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same number on every architecture */
#endif

/* One word of a futex_waitv: sleep while *word == expected. `expected` has the kernel's width, 64 bits,
 * of which only the low 32 may be used (others give EINVAL from Linux 6.7 on). */
struct futex_sleep {
    const shared32 *word;
    uint64_t expected;
};

/* Room for all objects of a wait and its alert. The kernel itself takes 128. */
#define FUTEX_SLEEP_MAX 65

/* The kernel's own struct, declared here because kernel headers older than 5.16 lack it. */
struct futex_waitv_entry_ {
    uint64_t val;
    uint64_t uaddr;
    uint32_t flags; /* 2: a 32-bit word, shared between processes */
    uint32_t reserved;
};

/* Sleeps until one of the words is woken or differs from what is expected (-EAGAIN). Returns the index of
 * a woken word, -EAGAIN, -ETIMEDOUT, -EINTR, or -EINVAL for an expectation above 32 bits. */
static inline int futex_waitv(const struct futex_sleep *sleeps, uint32_t count, uint64_t deadline_ns)
{
    struct futex_waitv_entry_ entries[FUTEX_SLEEP_MAX];
    struct timespec until = clock_timespec(deadline_ns);
    long rc;

    if (count > FUTEX_SLEEP_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        entries[i].val = sleeps[i].expected;
        entries[i].uaddr = (uint64_t)(uintptr_t)&sleeps[i].word->word_;
        entries[i].flags = 2;
        entries[i].reserved = 0;
    }
    rc = syscall(SYS_futex_waitv, entries, count, 0, deadline_ns == SS_FOREVER ? NULL : &until,
                 CLOCK_MONOTONIC);
    return rc < 0 ? -errno : (int)rc;
}

/* The same with one word, which every kernel has. 0, -EAGAIN, -ETIMEDOUT or -EINTR. */
static inline int futex_wait(const shared32 *word, uint32_t expected, uint64_t deadline_ns)
{
    struct timespec until = clock_timespec(deadline_ns);
    long rc = syscall(SYS_futex, &word->word_, FUTEX_WAIT_BITSET, expected, deadline_ns == SS_FOREVER ? NULL : &until,
                      NULL, FUTEX_BITSET_MATCH_ANY);
    return rc < 0 ? -errno : (int)rc;
}

/* Wakes up to `count` sleepers of a word; returns how many. */
static inline int futex_wake(shared32 *word, int count)
{
    long rc = syscall(SYS_futex, &word->word_, FUTEX_WAKE, count, NULL, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}

/* 0 where the kernel has futex_waitv (Linux 5.16), else -ENOSYS: an empty list is refused as EINVAL. */
static inline int futex_waitv_probe(void)
{
    if (syscall(SYS_futex_waitv, NULL, 0, 0, NULL, CLOCK_MONOTONIC) < 0 && errno != EINVAL)
        return -errno;
    return 0;
}

/* How long a waiter looks at a word before it sleeps, at most: as long as it takes to wake a thread on another CPU. */
enum { SPIN_MAX_NS = 50000 };

/* How often a waiter that need not be treated fairly is woken and finds that another was faster, before it insists. */
enum { BARGES_MAX = INT_MAX };

/* Between two looks. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* Lets another thread run that is ready to, on this CPU. */
static inline void cpu_give_way(void)
{
    sched_yield();
}

/* On one CPU, whom a spinning thread waits for does not run. */
static inline uint32_t cpus_allowed(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 2; /* more than the set can hold */
}

/* Gives the CPU away for as short a time as can be asked for. */
static inline void futex_yield(void)
{
    struct timespec none = {0, 0};
    nanosleep(&none, NULL);
}

#endif
