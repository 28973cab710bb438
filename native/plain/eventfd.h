/* The seam, part 5 of 6: counters that are file descriptors. The production variant: the kernel's eventfds.
 *
 * An eventfd is readable while its counter is above 0. A read takes the whole counter (of a semaphore: 1 of it),
 * a write adds to it; neither blocks.
 */
#ifndef SS_EVENTFD_H
#define SS_EVENTFD_H

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"

/* Do processes get their objects from a broker, since unrelated ones cannot pass descriptors to each other? */
enum { OBJECTS_COME_FROM_A_BROKER = 1 };

/* All objects of a wait and its alert. */
#define EVENTFD_POLL_MAX 65

/* One descriptor of a poll. */
struct eventfd_look {
    int fd;
    bool readable; /* out */
};

/* The descriptor, or -errno: -EMFILE and -ENFILE when there are too many. */
static inline int eventfd_make(uint32_t initial, bool semaphore)
{
    int fd = eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0));
    return fd < 0 ? -errno : fd;
}

static inline void eventfd_close(int fd)
{
    close(fd);
}

/* What was taken, or 0 if there was nothing. */
static inline uint64_t eventfd_take(int fd)
{
    uint64_t value;
    return read(fd, &value, sizeof value) == sizeof value ? value : 0;
}

/* False: the counter would pass its limit, 2^64 - 2. */
static inline bool eventfd_add(int fd, uint64_t value)
{
    return write(fd, &value, sizeof value) == sizeof value;
}

static inline struct timespec eventfd_time_left_(uint64_t deadline_ns)
{
    uint64_t now = deadline_ns == 0 ? 0 : clock_now_ns();
    return clock_timespec(deadline_ns > now ? deadline_ns - now : 0);
}

/* Sleeps until one is readable, a deadline of 0 being over at once. How many are, 0 after the deadline, -EINTR; or
 * -ENOTRECOVERABLE once the connection `broker` (-1: none) has ended. */
static inline int eventfd_poll(struct eventfd_look *looks, uint32_t count, int broker, uint64_t deadline_ns)
{
    struct pollfd polled[EVENTFD_POLL_MAX + 1];
    struct timespec left;
    int rc;

    for (uint32_t i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = looks[i].fd, .events = POLLIN};
    polled[count] = (struct pollfd){.fd = broker};
    if (deadline_ns != SS_FOREVER)
        left = eventfd_time_left_(deadline_ns);
    rc = ppoll(polled, count + 1, deadline_ns == SS_FOREVER ? NULL : &left, NULL);
    if (rc < 0)
        return -errno;
    if (polled[count].revents != 0)
        return -ENOTRECOVERABLE;
    for (uint32_t i = 0; i < count; i++)
        looks[i].readable = polled[i].revents & POLLIN;
    return rc;
}

#endif
