/* The steps that are calls of the ntsync driver.
 *
 * A wait that has to sleep does so in a thread of the system's that is made for it, in the real ioctl; the coroutine
 * sleeps in the scheduler meanwhile. After a step, all waits under way are watched until each has returned or is fast
 * asleep: the kernel makes a waiter runnable before the call that serves it returns, so who still sleeps then was not
 * served. A deadline is played by a signal to a wait that sleeps: whether it was served is settled by then.
 */
#define _GNU_SOURCE
#include "device.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scheduler.h"

#define DESCRIPTORS_MAX 1024

/* One wait that is under way in the driver. */
struct waiter {
    bool under_way;
    pthread_t thread;
    int fd;
    unsigned long request;
    struct nt_wait *arguments;
    int result;
    atomic_int tid; /* 0: not begun */
    atomic_bool returned;
};

static struct waiter waiters[STEP_THREADS_MAX];
static bool settled = true; /* nothing was done since the last look */

const char device_state;
static const char objects[DESCRIPTORS_MAX];

const void *device_object(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS_MAX ? &objects[fd] : NULL;
}

static int call(int fd, unsigned long request, void *argument)
{
    int rc = ioctl(fd, request, argument);
    return rc < 0 ? -errno : rc;
}

static bool only_reads(unsigned long request)
{
    return request == NT_SEMAPHORE_READ || request == NT_MUTEX_READ || request == NT_EVENT_READ;
}

int step_device(const struct step_site *site, int fd, unsigned long request, void *argument)
{
    int rc;

    step_begin(site, device_object(fd), !only_reads(request));
    rc = call(fd, request, argument);
    step_note(site, SCHED_STEP, device_object(fd), 0, 0, rc);
    settled = settled && only_reads(request);
    return rc;
}

/* ---- a wait in a thread of its own ---- */

static void *wait_in_the_driver(void *argument)
{
    struct waiter *waiter = argument;

    atomic_store(&waiter->tid, (int)syscall(SYS_gettid));
    waiter->result = call(waiter->fd, waiter->request, waiter->arguments);
    atomic_store(&waiter->returned, true);
    return NULL;
}

static void interrupted(int number)
{
    (void)number;
}

/* What ends a sleep in the driver. */
static int interruption(void)
{
    return SIGRTMIN + 3;
}

/* The thread takes that signal and no other: all others are for the threads that were there before. */
static void start(struct waiter *waiter)
{
    struct sigaction action = {.sa_handler = interrupted};
    sigset_t all, before;

    sigaction(interruption(), &action, NULL);
    sigfillset(&all);
    sigdelset(&all, interruption());
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&waiter->thread, NULL, wait_in_the_driver, waiter) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The beginning of a file of the thread's in /proc. */
static void read_of(const struct waiter *waiter, const char *name, char *text, size_t size)
{
    char path[64];
    ssize_t length;
    int fd;

    snprintf(path, sizeof path, "/proc/self/task/%d/%s", atomic_load(&waiter->tid), name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    length = fd < 0 ? 0 : read(fd, text, size - 1);
    text[length < 0 ? 0 : length] = '\0';
    if (fd >= 0)
        close(fd);
}

static bool is_in_state_s(const struct waiter *waiter)
{
    char text[128];
    const char *after_name;

    read_of(waiter, "stat", text, sizeof text);
    after_name = strrchr(text, ')');
    return after_name != NULL && strncmp(after_name, ") S", 3) == 0;
}

/* The kernel shows the system call of a thread that is off the processor for good, until somebody wakes it. It may
 * wait there for a lock of the driver's: that is another state than S, which comes before and after only if it is
 * the sleep that waits to be served. */
static bool is_asleep(const struct waiter *waiter)
{
    char text[32];

    if (atomic_load(&waiter->tid) == 0 || !is_in_state_s(waiter))
        return false;
    read_of(waiter, "syscall", text, sizeof text);
    return strtol(text, NULL, 10) == SYS_ioctl && text[0] != 'r' && is_in_state_s(waiter);
}

static void watch(const struct waiter *waiter)
{
    while (!atomic_load(&waiter->returned) && !is_asleep(waiter))
        sched_yield();
}

static int join(struct waiter *waiter)
{
    pthread_join(waiter->thread, NULL);
    waiter->under_way = false;
    return waiter->result;
}

static int interrupt(struct waiter *waiter)
{
    if (!atomic_load(&waiter->returned))
        pthread_kill(waiter->thread, interruption());
    return join(waiter);
}

/* What the driver has answered; -EAGAIN: it sleeps. */
static int begin_wait(struct waiter *waiter, int fd, unsigned long request, struct nt_wait *arguments)
{
    waiter->fd = fd;
    waiter->request = request;
    waiter->arguments = arguments;
    atomic_store(&waiter->tid, 0);
    atomic_store(&waiter->returned, false);
    start(waiter);
    waiter->under_way = true;
    watch(waiter);
    return atomic_load(&waiter->returned) ? join(waiter) : -EAGAIN;
}

int step_device_wait(const struct step_site *site, int fd, unsigned long request, struct nt_wait *arguments)
{
    const void *first = device_object(*(const int32_t *)(uintptr_t)arguments->objects);
    uint64_t deadline_ns = arguments->timeout;
    uint32_t number = step_self() - 1;
    int rc;

    if (step_self() == 0) {
        step_begin(site, first, true);
        return call(fd, request, arguments);
    }
    sched_await_device(site, first, deadline_ns);
    arguments->timeout = deadline_ns <= sched_now_ns() ? 0 : SS_FOREVER; /* the scheduler's business */
    if (arguments->timeout == 0)
        rc = call(fd, request, arguments);
    else
        rc = begin_wait(&waiters[number], fd, request, arguments);
    step_note(site, SCHED_STEP, first, 0, arguments->index, rc);
    if (rc != -EAGAIN)
        return rc;
    if (sched_doze() != -ETIMEDOUT)
        return join(&waiters[number]);
    rc = interrupt(&waiters[number]);
    return rc == -EINTR ? -ETIMEDOUT : rc;
}

/* ---- for the scheduler ---- */

void device_settle(void)
{
    if (settled)
        return;
    settled = true;
    for (uint32_t t = 0; t < STEP_THREADS_MAX; t++) {
        if (!waiters[t].under_way)
            continue;
        watch(&waiters[t]);
        if (atomic_load(&waiters[t].returned))
            sched_returned(t);
    }
}

void device_leave(uint32_t thread)
{
    if (waiters[thread].under_way)
        interrupt(&waiters[thread]);
}
