/* The seam, part 5 of 6, traced: see plain/eventfd.h for what the operations are. A descriptor is a number that only
 * eventfd.c knows, and its counter a word of this process. */
#ifndef SS_EVENTFD_H
#define SS_EVENTFD_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "step.h"

/* All threads are one process's, which makes what it needs. */
enum { OBJECTS_COME_FROM_A_BROKER = 0 };

#define EVENTFD_POLL_MAX 65

struct eventfd_look {
    int fd;
    bool readable;
};

/* Not steps: nobody else knows an object's descriptor yet, or any more. */
int eventfd_make(uint32_t initial, bool semaphore);
void eventfd_close(int fd);

uint64_t step_take(const struct step_site *site, int fd);
bool step_add(const struct step_site *site, int fd, uint64_t value);
int step_poll(const struct step_site *site, struct eventfd_look *looks, uint32_t count, uint64_t deadline_ns);

#define eventfd_take(fd) step_take(STEP_SITE(STEP_READ, #fd), (fd))
#define eventfd_add(fd, value) step_add(STEP_SITE(STEP_WRITE, #fd), (fd), (value))
#define eventfd_poll(looks, count, broker, deadline_ns) \
    ((void)(broker), step_poll(STEP_SITE(STEP_POLL, #looks), (looks), (count), (deadline_ns)))

/* ---- for the scheduler ---- */

/* The counter behind a descriptor, to tell words apart by; NULL if it is none of ours. */
const uint64_t *eventfd_counter(int fd);
/* Remembers all counters, and brings them back. */
void eventfd_keep(void);
void eventfd_restore(void);

#endif
