/* Loops over calls of the production module. They have its functions by address, so that what is measured is that
 * module's code with the one state it has in a process.
 */
#include <errno.h>
#include <stdint.h>

#include "api.h"
#include "bench_api.h"
#include "loop.h"

static struct {
    int (*wait)(struct ss_wait *wait);
    int64_t (*semaphore_release)(struct ss_handle *handle, uint32_t count);
    int64_t (*mutex_release)(struct ss_handle *handle);
    int64_t (*event_set)(struct ss_handle *handle);
    int64_t (*event_reset)(struct ss_handle *handle);
    int (*read)(struct ss_handle *handle, struct ss_state *state);
} production;

void bench_use(const struct bench_functions *functions)
{
    production.wait = (int (*)(struct ss_wait *))functions->wait;
    production.semaphore_release = (int64_t(*)(struct ss_handle *, uint32_t))functions->semaphore_release;
    production.mutex_release = (int64_t(*)(struct ss_handle *))functions->mutex_release;
    production.event_set = (int64_t(*)(struct ss_handle *))functions->event_set;
    production.event_reset = (int64_t(*)(struct ss_handle *))functions->event_reset;
    production.read = (int (*)(struct ss_handle *, struct ss_state *))functions->read;
}

/* As shmsync/waiting.py and objects.py call them: after -EINTR the same again. */
#define AGAIN(call)              \
    ({                           \
        int64_t again_;          \
                                 \
        do                       \
            again_ = (call);     \
        while (again_ == -EINTR); \
        again_;                  \
    })

static inline int64_t wait_for(uintptr_t request)
{
    return AGAIN(production.wait((struct ss_wait *)request));
}

static inline int64_t release_semaphore(uintptr_t semaphore)
{
    return AGAIN(production.semaphore_release((struct ss_handle *)semaphore, 1));
}

static inline int64_t release_mutex(uintptr_t mutex)
{
    return AGAIN(production.mutex_release((struct ss_handle *)mutex));
}

static inline int64_t set(uintptr_t event)
{
    return AGAIN(production.event_set((struct ss_handle *)event));
}

static inline int64_t reset(uintptr_t event)
{
    return AGAIN(production.event_reset((struct ss_handle *)event));
}

/* Both, one after the other, unless the first fails. */
#define BOTH(first, second)                 \
    ({                                      \
        int64_t both_ = (first);            \
        both_ < 0 ? both_ : (second);       \
    })

int64_t bench_wait(uintptr_t request, uint32_t rounds)
{
    return TIMED(rounds, wait_for(request));
}

int64_t bench_wait_semaphore_release(uintptr_t request, uintptr_t semaphore, uint32_t rounds)
{
    return TIMED(rounds, BOTH(wait_for(request), release_semaphore(semaphore)));
}

int64_t bench_wait_mutex_release(uintptr_t request, uintptr_t mutex, uint32_t rounds)
{
    return TIMED(rounds, BOTH(wait_for(request), release_mutex(mutex)));
}

int64_t bench_set_wait(uintptr_t event, uintptr_t request, uint32_t rounds)
{
    return TIMED(rounds, BOTH(set(event), wait_for(request)));
}

int64_t bench_set_reset(uintptr_t event, uint32_t rounds)
{
    return TIMED(rounds, BOTH(set(event), reset(event)));
}

int64_t bench_read(uintptr_t handle, uint32_t rounds)
{
    struct ss_state state;

    return TIMED(rounds, AGAIN(production.read((struct ss_handle *)handle, &state)));
}

int64_t bench_ping_pong(uintptr_t request, uintptr_t semaphore, uint32_t rounds, uint32_t first)
{
    if (first)
        return TIMED(rounds, BOTH(release_semaphore(semaphore), wait_for(request)));
    return TIMED(rounds, BOTH(wait_for(request), release_semaphore(semaphore)));
}
