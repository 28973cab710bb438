/* Threads under a scheduler: what step.c asks of scheduler.c, and explore.c of both. */
#ifndef SS_SCHEDULER_H
#define SS_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "futex.h"
#include "segment.h"
#include "step.h"
#include "trace_api.h"

const char *step_op_name(enum step_op op);
void step_note(const struct step_site *site, uint32_t kind, const void *address, uint64_t old, uint64_t now,
               int64_t result);

/* Every step begins here. `writes`: does it change the word, for everybody who looks at it? */
void step_begin(const struct step_site *site, const void *address, bool writes);

/* For the thread that takes a step. */
void sched_await(const struct step_site *site, const void *address, bool writes);
int sched_sleep(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count,
                uint64_t deadline_ns);
/* The two halves of a sleep that looks by itself: stands before a step that looks at several words; and sleeps until
 * one of them is woken (its number), or -ETIMEDOUT. */
void sched_await_any(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count,
                     uint64_t deadline_ns);
int sched_doze(void);
/* Stands before a wait in the driver; and its wait, in which it dozes, has returned (device.c). */
void sched_await_device(const struct step_site *site, const void *address, uint64_t deadline_ns);
void sched_returned(uint32_t thread);
int sched_wake(const void *word, int count);
int sched_trylock(robust_mutex *m);
int sched_lock_for(robust_mutex *m);
int sched_unlock(robust_mutex *m);
int sched_consistent(robust_mutex *m);
uint32_t sched_tid(uint32_t thread);
uint64_t sched_now_ns(void);
bool sched_is_free_running(void);

/* One of the words that a transition touches, to tell whether two transitions commute. */
struct touched {
    const void *address;
    bool writes;
};

/* Room for a kill: what the thread sleeps on, the robust mutexes that it holds, and what kills have in common. */
#define SCHED_HELD_MAX 8
#define TOUCHED_MAX (FUTEX_SLEEP_MAX + SCHED_HELD_MAX + STEP_THREADS_MAX + 2)
uint32_t sched_touched(uint32_t thread, uint32_t kind, struct touched out[TOUCHED_MAX]);
/* Is the thread before a step, whether it may take it now or the step is to lock what is held? */
bool sched_is_before_a_step(uint32_t thread);
uint32_t sched_threads(void);
/* A digest of how the program has ended: history, results, states of threads and objects. */
uint64_t sched_digest(void);

#endif
