/* The seam, part 1 of 6, traced: see plain/atomic.h for what the operations are. */
#ifndef SS_ATOMIC_H
#define SS_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#include "step.h"

enum { STEPS_ARE_TRACED = 1 };

typedef struct { uint32_t word_; } shared32;
typedef struct { uint64_t word_; } shared64;

#define STEP_LOAD_(w, width) step_load(STEP_SITE(STEP_LOAD, #w), &(w)->word_, width)
#define STEP_STORE_(w, width, v) step_store(STEP_SITE(STEP_STORE, #w), &(w)->word_, width, (v))

#define load32_relaxed(w) ((uint32_t)STEP_LOAD_(w, 4))
#define load32_acquire(w) ((uint32_t)STEP_LOAD_(w, 4))
#define load64_relaxed(w) STEP_LOAD_(w, 8)
#define load64_acquire(w) STEP_LOAD_(w, 8)

#define store32_relaxed(w, v) STEP_STORE_(w, 4, v)
#define store32_release(w, v) STEP_STORE_(w, 4, v)
#define store64_relaxed(w, v) STEP_STORE_(w, 8, v)
#define store64_release(w, v) STEP_STORE_(w, 8, v)

#define swap32_acq_rel(w, v) ((uint32_t)step_swap(STEP_SITE(STEP_SWAP, #w), &(w)->word_, 4, (v)))
#define cas32_acq_rel(w, expected, v) \
    ((uint32_t)step_cas(STEP_SITE(STEP_CAS, #w), &(w)->word_, 4, (expected), (v)))
#define cas64_acq_rel(w, expected, v) step_cas(STEP_SITE(STEP_CAS, #w), &(w)->word_, 8, (expected), (v))
#define or64_acq_rel(w, v) step_or(STEP_SITE(STEP_OR, #w), &(w)->word_, (v))

#endif
