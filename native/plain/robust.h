/* The seam, part 3 of 6: robust process-shared mutexes. The production variant: pthread's.
 *
 * A robust mutex tells the next locker that its holder died: EOWNERDEAD. The kernel does the telling, for
 * every way a thread can end (return, exec, kill -9), so it also serves as a sign of life: a thread that
 * holds one is alive while trylock says EBUSY.
 *
 * All functions return 0 or -errno. Each first checks that the words in the segment still describe a mutex
 * of this kind (-EBADMSG if not): the C library acts on whatever kind it reads there.
 */
#ifndef SS_ROBUST_H
#define SS_ROBUST_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomic.h"
#include "clock.h"

#ifndef __GLIBC__
#error "shmsync needs the GNU C library: robust.h reads the lock word and the kind of its pthread_mutex_t"
#endif

typedef union {
    pthread_mutex_t mutex;
    char size_[64];
} robust_mutex;

/* What glibc keeps in __kind of a robust, process-shared, normal mutex. */
#define ROBUST_KIND_ (PTHREAD_MUTEX_ROBUST_FLAG_ | PTHREAD_MUTEX_PSHARED_FLAG_)
#define PTHREAD_MUTEX_ROBUST_FLAG_ 16
#define PTHREAD_MUTEX_PSHARED_FLAG_ 128

/* Bits of the lock word, fixed by the kernel's robust futex interface. The other 30 bits are the owner's
 * thread id as the kernel numbers it in the owner's pid namespace. */
#define ROBUST_WAITERS 0x80000000u
#define ROBUST_OWNER_DIED 0x40000000u
#define ROBUST_TID_MASK 0x3fffffffu

/* A variable that each thread has for itself: PER_THREAD(type, name) declares it, per_thread(name) is it. */
#define PER_THREAD(type, name) __thread type name
#define per_thread(name) name

/* May a process have threads that its program has not started? */
enum { BACKGROUND_THREADS = 1 };

/* The kernel's number of the calling thread, to show. */
static inline uint32_t thread_number(void)
{
    return (uint32_t)gettid();
}

static inline int robust_init(robust_mutex *m)
{
    pthread_mutexattr_t attributes;
    int rc;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    rc = pthread_mutex_init(&m->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (rc == 0 && m->mutex.__data.__kind != ROBUST_KIND_)
        return -ENOSYS; /* another C library release: its layout has to be looked at first */
    return -rc;
}

static inline bool robust_is_intact(const robust_mutex *m)
{
    return __atomic_load_n(&m->mutex.__data.__kind, __ATOMIC_RELAXED) == ROBUST_KIND_;
}

/* glibc's trylock (seen in 2.36) says ENOTRECOVERABLE but leaves the lock word with the caller, so that everybody
 * else, and the caller the next time, would wait for it. Its timed lock does not. */
static inline void robust_give_word_back_(robust_mutex *m)
{
    int *word = &m->mutex.__data.__lock;

    if (((uint32_t)__atomic_load_n(word, __ATOMIC_RELAXED) & ROBUST_TID_MASK) != (uint32_t)gettid())
        return;
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline int robust_trylock(robust_mutex *m)
{
    int rc = robust_is_intact(m) ? -pthread_mutex_trylock(&m->mutex) : -EBADMSG;

    if (rc == -ENOTRECOVERABLE)
        robust_give_word_back_(m);
    return rc;
}

/* Locks, or gives up with -ETIMEDOUT after so long. Not interrupted by signals. Asks for the time only if somebody
 * has the mutex. */
static inline int robust_lock_for(robust_mutex *m, uint64_t duration_ns)
{
    int rc = robust_trylock(m);
    struct timespec until;

    if (rc != -EBUSY)
        return rc;
    until = clock_timespec(clock_now_ns() + duration_ns);
    return -pthread_mutex_clocklock(&m->mutex, CLOCK_MONOTONIC, &until);
}

static inline int robust_unlock(robust_mutex *m)
{
    return robust_is_intact(m) ? -pthread_mutex_unlock(&m->mutex) : -EBADMSG;
}

/* After -EOWNERDEAD, once the state behind the lock is right again. */
static inline int robust_consistent(robust_mutex *m)
{
    return -pthread_mutex_consistent(&m->mutex);
}

/* The word that the kernel marks and wakes when the holder dies, to sleep on. */
static inline shared32 *robust_word(robust_mutex *m)
{
    return (shared32 *)(void *)&m->mutex.__data.__lock;
}

#endif
