/* The seam, part 3 of 6, traced: see plain/robust.h for what the operations are. */
#ifndef SS_ROBUST_H
#define SS_ROBUST_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

#include "atomic.h"
#include "clock.h"

typedef union {
    pthread_mutex_t mutex;
    char size_[64];
} robust_mutex;

#define ROBUST_WAITERS 0x80000000u
#define ROBUST_OWNER_DIED 0x40000000u
#define ROBUST_TID_MASK 0x3fffffffu

/* Threads of a scheduler are coroutines of one thread of the system, so thread-local is by their number. Number 0
 * is whoever runs outside a scheduler. */
#define STEP_THREADS_MAX 8
#define PER_THREAD(type, name) __thread type name##_of_[STEP_THREADS_MAX + 2]
#define per_thread(name) name##_of_[step_self()]

/* None that would take steps of their own: the sweeper is a thread of the program that a test writes. */
enum { BACKGROUND_THREADS = 0 };

uint32_t step_self(void);
uint32_t thread_number(void);

int step_robust_init(const struct step_site *site, robust_mutex *m);
int step_trylock(const struct step_site *site, robust_mutex *m);
int step_lock_for(const struct step_site *site, robust_mutex *m, uint64_t duration_ns);
int step_unlock(const struct step_site *site, robust_mutex *m);
int step_consistent(const struct step_site *site, robust_mutex *m);

#define robust_init(m) step_robust_init(STEP_SITE(STEP_INIT, #m), (m))
#define robust_trylock(m) step_trylock(STEP_SITE(STEP_TRYLOCK, #m), (m))
#define robust_lock_for(m, duration_ns) step_lock_for(STEP_SITE(STEP_LOCK, #m), (m), (duration_ns))
#define robust_unlock(m) step_unlock(STEP_SITE(STEP_UNLOCK, #m), (m))
#define robust_consistent(m) step_consistent(STEP_SITE(STEP_CONSISTENT, #m), (m))

static inline shared32 *robust_word(robust_mutex *m)
{
    return (shared32 *)(void *)&m->mutex.__data.__lock;
}

#endif
