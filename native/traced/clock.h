/* The seam, part 4 of 6, traced: under a scheduler time stands still, so that runs repeat exactly. A deadline that
 * can come is then a choice of the scheduler's, not of the clock's; for the thread whose call's deadline has come it
 * is as late as that. */
#ifndef SS_CLOCK_H
#define SS_CLOCK_H

#include <stdint.h>
#include <time.h>

#define SS_FOREVER UINT64_MAX
#define NS_PER_SECOND 1000000000ull
#define NS_PER_MS 1000000ull

uint64_t clock_now_ns(void);

static inline struct timespec clock_timespec(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / NS_PER_SECOND), (long)(ns % NS_PER_SECOND)};
    return t;
}

#endif
