/* What two processes pay that have to sleep for each other, with the least that the kernel offers for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#include "bench_api.h"
#include "futex.h"
#include "loop.h"
#include "robust.h"

/* Until the word says that it is this role's turn. 0 or -errno. */
static int await_turn(shared32 *word, uint32_t role, uint32_t spins, uint64_t deadline_ns)
{
    int rc = 0;

    while (load32_acquire(word) != role) {
        if (spins > 0) {
            spins--;
            cpu_relax();
            continue;
        }
        rc = futex_wait(word, 1 - role, deadline_ns);
        if (rc < 0 && rc != -EAGAIN && rc != -EINTR)
            return rc;
    }
    return 0;
}

static int64_t take_a_turn(shared32 *word, uint32_t role, uint32_t spins, uint64_t deadline_ns)
{
    int rc = await_turn(word, role, spins, deadline_ns);

    if (rc < 0)
        return rc;
    store32_release(word, 1 - role);
    return futex_wake(word, 1);
}

int64_t bench_futex_ping_pong(uintptr_t word, uint32_t role, uint32_t spins, uint64_t deadline_ns, uint32_t rounds)
{
    return TIMED(rounds, take_a_turn((shared32 *)word, role, spins, deadline_ns));
}

static inline int64_t give_one(int fd)
{
    uint64_t one = 1;
    return write(fd, &one, sizeof one) == sizeof one ? 0 : -errno;
}

static inline int64_t get_one(int fd)
{
    uint64_t value;
    return read(fd, &value, sizeof value) == sizeof value ? 0 : -errno;
}

static int64_t give_then_get(int give, int get)
{
    int64_t rc = give_one(give);
    return rc < 0 ? rc : get_one(get);
}

static int64_t get_then_give(int get, int give)
{
    int64_t rc = get_one(get);
    return rc < 0 ? rc : give_one(give);
}

int64_t bench_eventfd_ping_pong(int mine, int theirs, uint32_t role, uint32_t rounds)
{
    if (role == 0)
        return TIMED(rounds, give_then_get(theirs, mine));
    return TIMED(rounds, get_then_give(mine, theirs));
}

/* ---- the death of an owner ---- */

int bench_robust_make(uintptr_t mutex)
{
    return robust_init((robust_mutex *)mutex);
}

int bench_robust_lock(uintptr_t mutex)
{
    return -pthread_mutex_lock(&((robust_mutex *)mutex)->mutex);
}

int64_t bench_robust_await_death(uintptr_t address, uint64_t deadline_ns)
{
    pthread_mutex_t *mutex = &((robust_mutex *)address)->mutex;
    struct timespec until = clock_timespec(deadline_ns);
    int rc = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
    int64_t heard = (int64_t)clock_now_ns();

    if (rc == EOWNERDEAD)
        rc = -pthread_mutex_consistent(mutex);
    else if (rc == 0)
        rc = -EPERM;
    else
        return -rc;
    pthread_mutex_unlock(mutex);
    return rc < 0 ? rc : heard;
}
