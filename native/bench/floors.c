/* Loops over what shmsync is built of, and over what others build of it, with nobody else in the way. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench_api.h"
#include "futex.h"
#include "loop.h"
#include "robust.h"

/* The most that a wait of shmsync may have. */
enum { COUNT_MAX = 64 };

static inline int64_t nothing(void)
{
    __asm__ volatile("" ::: "memory");
    return 0;
}

int64_t bench_nothing(uint32_t rounds)
{
    return TIMED(rounds, nothing());
}

int64_t bench_count_down(uint32_t rounds)
{
#if defined(__x86_64__)
    uint64_t begin = clock_now_ns();

    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(rounds) : : "cc");
    return (int64_t)(clock_now_ns() - begin);
#else
    (void)rounds;
    return -ENOSYS;
#endif
}

int64_t bench_getpid(uint32_t rounds)
{
    return TIMED(rounds, syscall(SYS_getpid));
}

int64_t bench_clock_gettime(uint32_t rounds)
{
    return TIMED(rounds, (int64_t)clock_now_ns());
}

int64_t bench_compare_and_swap(uint32_t rounds)
{
    shared32 word = {0};
    uint32_t value = 0;

    return TIMED(rounds, (cas32_acq_rel(&word, value, value + 1), value++, 0));
}

/* ---- futexes ---- */

/* Tokens, and how many sleep for one. */
struct semaphore {
    shared32 tokens;
    shared32 sleepers;
};

static inline int64_t down(struct semaphore *s)
{
    uint32_t seen = load32_relaxed(&s->tokens);

    while (seen > 0) {
        uint32_t found = cas32_acq_rel(&s->tokens, seen, seen - 1);

        if (found == seen)
            return 0;
        seen = found;
    }
    return -EAGAIN; /* would sleep */
}

static inline int64_t up(struct semaphore *s)
{
    uint32_t seen = load32_relaxed(&s->tokens);
    uint32_t found;

    while ((found = cas32_acq_rel(&s->tokens, seen, seen + 1)) != seen)
        seen = found;
    return load32_acquire(&s->sleepers) > 0 ? futex_wake(&s->tokens, 1) : 0;
}

int64_t bench_futex_semaphore(uint32_t rounds)
{
    struct semaphore s = {{1}, {0}};

    return TIMED(rounds, down(&s) < 0 ? -EAGAIN : up(&s));
}

/* futex.h has the calls for words that processes share; these are those for the words of one process. */
static inline int64_t private_call(shared32 *word, int operation)
{
    return syscall(SYS_futex, &word->word_, operation | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0) < 0 ? -errno : 0;
}

/* The word is 0, so nobody sleeps for a 1. */
static inline int64_t private_calls(shared32 *word)
{
    int64_t rc = private_call(word, FUTEX_WAKE);

    if (rc == 0)
        rc = private_call(word, FUTEX_WAIT);
    return rc == -EAGAIN ? 0 : -EPROTO;
}

static inline int64_t shared_calls(shared32 *word)
{
    int rc = futex_wake(word, 1);

    if (rc == 0)
        rc = futex_wait(word, 1, SS_FOREVER);
    return rc == -EAGAIN ? 0 : -EPROTO;
}

int64_t bench_futex_calls(uint32_t shared, uint32_t rounds)
{
    int visible = shared ? MAP_SHARED : MAP_PRIVATE;
    shared32 *word = mmap(NULL, sizeof *word, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | visible, -1, 0);
    int64_t result;

    if (word == MAP_FAILED)
        return -errno;
    store32_relaxed(word, 0); /* the page is there from now on */
    result = shared ? TIMED(rounds, shared_calls(word)) : TIMED(rounds, private_calls(word));
    munmap(word, sizeof *word);
    return result;
}

/* ---- mutexes of the C library ---- */

static inline int64_t lock_and_unlock(pthread_mutex_t *mutex)
{
    int rc = pthread_mutex_lock(mutex);

    return rc != 0 ? -rc : -pthread_mutex_unlock(mutex);
}

int64_t bench_pthread_mutex(uint32_t robust, uint32_t rounds)
{
    robust_mutex mutex = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    int64_t result = robust ? robust_init(&mutex) : 0;

    if (result < 0)
        return result;
    result = TIMED(rounds, lock_and_unlock(&mutex.mutex));
    pthread_mutex_destroy(&mutex.mutex);
    return result;
}

/* ---- eventfds ---- */

static inline int64_t add_one(int fd)
{
    uint64_t one = 1;
    return write(fd, &one, sizeof one) == sizeof one ? 0 : -errno;
}

static inline int64_t take(int fd)
{
    uint64_t value;
    return read(fd, &value, sizeof value) == sizeof value ? 0 : -errno;
}

static inline int64_t add_and_take(int fd)
{
    int64_t rc = add_one(fd);
    return rc < 0 ? rc : take(fd);
}

int64_t bench_eventfd(uint32_t rounds)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int64_t result;

    if (fd < 0)
        return -errno;
    result = TIMED(rounds, add_and_take(fd));
    close(fd);
    return result;
}

static inline int64_t poll_and_take(struct pollfd *polled, uint32_t count)
{
    int rc = poll(polled, count, 0);

    if (rc < 0)
        return -errno;
    return rc == 1 ? take(polled[count - 1].fd) : -EPROTO;
}

int64_t bench_eventfd_poll(uint32_t count, uint32_t rounds)
{
    struct pollfd polled[COUNT_MAX];
    int64_t result = 0;
    uint32_t made = 0;

    if (count < 1 || count > COUNT_MAX)
        return -EINVAL;
    for (; made < count && result == 0; made++) {
        uint32_t tokens = made == count - 1 ? rounds : 0;
        int fd = eventfd(tokens, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);

        if (fd < 0)
            result = -errno;
        polled[made] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (result == 0)
        result = TIMED(rounds, poll_and_take(polled, count));
    while (made-- > 0) {
        if (polled[made].fd >= 0)
            close(polled[made].fd);
    }
    return result;
}
