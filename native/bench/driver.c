/* Loops over the kernel's own /dev/ntsync, called as a program would call it that has nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bench_api.h"
#include "loop.h"

/* The driver's interface: two numbers that describe an object, and a wait. */
struct pair {
    uint32_t first;
    uint32_t second;
};

struct driver_wait {
    uint64_t timeout;  /* absolute, CLOCK_MONOTONIC */
    uint64_t objects;  /* address of the descriptors */
    uint32_t count;
    uint32_t index;    /* out */
    uint32_t flags;
    uint32_t owner;
    uint32_t alert;
    uint32_t pad;
};

#define MAKE_SEMAPHORE _IOW('N', 0x80, struct pair) /* count, maximum */
#define SEMAPHORE_RELEASE _IOWR('N', 0x81, uint32_t)
#define WAIT_ANY _IOWR('N', 0x82, struct driver_wait)
#define WAIT_ALL _IOWR('N', 0x83, struct driver_wait)
#define MAKE_MUTEX _IOW('N', 0x84, struct pair)     /* owner, count */
#define MUTEX_UNLOCK _IOWR('N', 0x85, struct pair)
#define MAKE_EVENT _IOW('N', 0x87, struct pair)     /* manual, signaled */
#define EVENT_SET _IOR('N', 0x88, uint32_t)

enum { COUNT_MAX = 64, OWNER = 1 };

static inline int64_t call(int fd, unsigned long request, void *argument)
{
    int rc = ioctl(fd, request, argument);
    return rc < 0 ? -errno : rc;
}

static inline int64_t wait_for(int device, const int *objects, uint32_t count, unsigned long how)
{
    struct driver_wait wait = {.objects = (uintptr_t)objects, .count = count, .owner = OWNER};

    return call(device, how, &wait);
}

static inline int64_t wait_and_release(int device, int object, uint32_t pair)
{
    int64_t rc = wait_for(device, &object, 1, WAIT_ANY);
    struct pair owner = {OWNER, 0};
    uint32_t one = 1;

    if (rc < 0)
        return rc;
    return pair == BENCH_MUTEX ? call(object, MUTEX_UNLOCK, &owner) : call(object, SEMAPHORE_RELEASE, &one);
}

static inline int64_t set_and_wait(int device, int event)
{
    uint32_t before;
    int64_t rc = call(event, EVENT_SET, &before);

    return rc < 0 ? rc : wait_for(device, &event, 1, WAIT_ANY);
}

static int make(int device, uint32_t pair)
{
    struct pair free_mutex = {0, 0}, unset_auto_event = {0, 0}, one_token = {1, 1};

    if (pair == BENCH_MUTEX)
        return (int)call(device, MAKE_MUTEX, &free_mutex);
    if (pair == BENCH_EVENT)
        return (int)call(device, MAKE_EVENT, &unset_auto_event);
    return (int)call(device, MAKE_SEMAPHORE, &one_token);
}

static int64_t run_pair(int device, int object, uint32_t pair, uint32_t rounds)
{
    if (pair == BENCH_EVENT)
        return TIMED(rounds, set_and_wait(device, object));
    return TIMED(rounds, wait_and_release(device, object, pair));
}

int64_t bench_driver_pair(uint32_t pair, uint32_t rounds)
{
    int device = open("/dev/ntsync", O_RDWR | O_CLOEXEC);
    int64_t result;
    int object;

    if (device < 0)
        return -errno;
    object = make(device, pair);
    result = object;
    if (object >= 0) {
        result = run_pair(device, object, pair, rounds);
        close(object);
    }
    close(device);
    return result;
}

static int64_t run_wait(int device, const int *objects, uint32_t count, uint32_t all, uint32_t rounds)
{
    if (all)
        return TIMED(rounds, wait_for(device, objects, count, WAIT_ALL));
    return TIMED(rounds, wait_for(device, objects, count, WAIT_ANY));
}

int64_t bench_driver_wait(uint32_t count, uint32_t all, uint32_t rounds)
{
    int device = open("/dev/ntsync", O_RDWR | O_CLOEXEC);
    int objects[COUNT_MAX];
    int64_t result = 0;
    uint32_t made = 0;

    if (device < 0)
        return -errno;
    if (count < 1 || count > COUNT_MAX)
        result = -EINVAL;
    while (made < count && result >= 0) {
        struct pair tokens = {all || made == count - 1 ? rounds : 0, INT_MAX};

        result = call(device, MAKE_SEMAPHORE, &tokens);
        if (result >= 0)
            objects[made++] = (int)result;
    }
    if (result >= 0)
        result = run_wait(device, objects, count, all, rounds);
    while (made-- > 0)
        close(objects[made]);
    close(device);
    return result;
}
