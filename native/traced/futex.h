/* The seam, part 2 of 6, traced: see plain/futex.h for what the operations are. */
#ifndef SS_FUTEX_H
#define SS_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <stdint.h>

#include "atomic.h"
#include "clock.h"

struct futex_sleep {
    const shared32 *word;
    uint64_t expected;
};

#define FUTEX_SLEEP_MAX 65

int step_sleep(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count, uint64_t deadline_ns);
int step_wake(const struct step_site *site, shared32 *word, int count);
void step_yield(const struct step_site *site);
int futex_waitv_probe(void);

/* No spinning: a look more or less changes nothing that a schedule could show. */
enum { SPIN_MAX_NS = 0 };

/* At once, since time stands still here. */
enum { BARGES_MAX = 1 };

static inline void cpu_relax(void)
{
}

static inline void cpu_give_way(void)
{
}

static inline uint32_t cpus_allowed(void)
{
    return 1;
}

#define futex_waitv(sleeps, count, deadline_ns) \
    step_sleep(STEP_SITE(STEP_SLEEP, #sleeps), (sleeps), (count), (deadline_ns))
#define futex_wait(word_, expected_, deadline_ns) \
    step_sleep(STEP_SITE(STEP_SLEEP, #word_), &(struct futex_sleep){(word_), (expected_)}, 1, (deadline_ns))
#define futex_wake(word, count) step_wake(STEP_SITE(STEP_WAKE, #word), (word), (count))
#define futex_yield() step_yield(STEP_SITE(STEP_YIELD, ""))

#endif
