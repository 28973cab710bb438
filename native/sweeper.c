/* The sweeper: for engines whose waiters do not look after dead owners themselves.
 *
 * Every process that uses such a segment has one of these threads. They compete for the segment's server mutex;
 * the one that holds it looks for dead threads every 50 ms and does nothing else, the others sleep until it dies
 * or leaves. Between a death and its sweep there are at most 50 ms and the time that the sweep takes. The others
 * sleep for at most 100 ms at a time, and look once themselves after that: the one whose turn it is may be
 * stopped, or may have been killed after it was woken and before it took over.
 *
 * The others sleep on the lock word of the server mutex and on their own stop word at once. The kernel, and the
 * C library's unlock, wake one sleeper of a lock word if its waiters bit is set. So it is set before every such
 * sleep, only by an exchange from a value that names a living holder (on a free word it would never be cleared);
 * and a new holder sets it too, since the bit went with its predecessor while others may still sleep.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "engine.h"
#include "futex.h"

#define SWEEP_INTERVAL_NS (50 * NS_PER_MS)
#define STANDBY_INTERVAL_NS (100 * NS_PER_MS)
/* Dead processes matter less: what they had open is also collected by who attaches, or looks it up. */
#define SWEEPS_PER_COLLECTION 20
#define SWEEPER_STACK_BYTES (256 * 1024)

static bool asked_to_stop(struct ss_namespace *ns)
{
    return load32_acquire(&ns->sweeper_stop) != 0; /* pairs with the store in sweeper_stop */
}

static void sweep(struct ss_namespace *ns, bool processes)
{
    if (gate_lock(ns) < 0)
        return;
    owner_reap_threads(ns);
    if (processes)
        owner_reap_processes(ns);
    gate_unlock(ns);
}

static void sweep_until_stopped(struct ss_namespace *ns)
{
    const struct futex_sleep nap = {&ns->sweeper_stop, 0};

    for (uint32_t count = 1; !asked_to_stop(ns); count++) {
        sweep(ns, count % SWEEPS_PER_COLLECTION == 0);
        futex_waitv(&nap, 1, clock_now_ns() + SWEEP_INTERVAL_NS);
    }
}

static void sleep_until_free(struct ss_namespace *ns, robust_mutex *server)
{
    struct futex_sleep sleeps[2] = {{robust_word(server), 0}, {&ns->sweeper_stop, 0}};

    sleeps[0].expected = owner_watch(robust_word(server));
    if (sleeps[0].expected != 0 && futex_waitv(sleeps, 2, clock_now_ns() + STANDBY_INTERVAL_NS) == -ETIMEDOUT)
        sweep(ns, false);
}

static void *sweeper_main(void *argument)
{
    struct ss_namespace *ns = argument;
    robust_mutex *server = &segment_control(ns)->server;

    while (!asked_to_stop(ns)) {
        int rc = robust_trylock(server);

        if (rc == -EOWNERDEAD)
            rc = robust_consistent(server); /* it protects no state of its own */
        if (rc == -EBUSY) {
            sleep_until_free(ns, server);
            continue;
        }
        if (rc < 0)
            break; /* damaged: every call on the segment says so */
        owner_watch(robust_word(server));
        sweep_until_stopped(ns);
        robust_unlock(server);
    }
    return NULL;
}

int sweeper_start(struct ss_namespace *ns)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int rc;

    if (ns->sweeper_running || !BACKGROUND_THREADS)
        return 0;
    store32_relaxed(&ns->sweeper_stop, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, SWEEPER_STACK_BYTES);
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&ns->sweeper, &attributes, sweeper_main, ns);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    ns->sweeper_running = rc == 0;
    return rc == 0 ? 0 : -EAGAIN;
}

void sweeper_stop(struct ss_namespace *ns)
{
    if (!ns->sweeper_running)
        return;
    store32_release(&ns->sweeper_stop, 1);
    futex_wake(&ns->sweeper_stop, 1);
    pthread_join(ns->sweeper, NULL);
    ns->sweeper_running = false;
}
