/* The loop that all measure with. */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include <stdint.h>

#include "clock.h"

/* Evaluates `call` so many times, until it gives -errno. The nanoseconds that it took, or -errno. */
#define TIMED(rounds, call)                                              \
    ({                                                                   \
        uint64_t begin_ = clock_now_ns();                                \
        int64_t rc_ = 0;                                                 \
                                                                         \
        for (uint32_t left_ = (rounds); left_ > 0 && rc_ >= 0; left_--)  \
            rc_ = (call);                                                \
        rc_ < 0 ? rc_ : (int64_t)(clock_now_ns() - begin_);              \
    })

#endif
