/* The seam, part 1 of 6: loads, stores and read-modify-writes of shared words.
 *
 * A shared word has a type of its own, so that a plain access does not compile, and every operation
 * says its ordering in its name. This is the production variant: each operation is one C11-style
 * builtin. A variant with the same names under another include path can turn each of them into a step
 * that is recorded, so nothing else in native/ may touch shared memory.
 */
#ifndef SS_ATOMIC_H
#define SS_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

/* Are the operations steps of a rig? Then nobody may do any outside this module. */
enum { STEPS_ARE_TRACED = 0 };

typedef struct { uint32_t word_; } shared32;
typedef struct { uint64_t word_; } shared64;

#define load32_relaxed(w) __atomic_load_n(&(w)->word_, __ATOMIC_RELAXED)
#define load32_acquire(w) __atomic_load_n(&(w)->word_, __ATOMIC_ACQUIRE)
#define load64_relaxed(w) __atomic_load_n(&(w)->word_, __ATOMIC_RELAXED)
#define load64_acquire(w) __atomic_load_n(&(w)->word_, __ATOMIC_ACQUIRE)

#define store32_relaxed(w, v) __atomic_store_n(&(w)->word_, (v), __ATOMIC_RELAXED)
#define store32_release(w, v) __atomic_store_n(&(w)->word_, (v), __ATOMIC_RELEASE)
#define store64_relaxed(w, v) __atomic_store_n(&(w)->word_, (v), __ATOMIC_RELAXED)
#define store64_release(w, v) __atomic_store_n(&(w)->word_, (v), __ATOMIC_RELEASE)

/* These return the value that was there before; the exchange happened if it equals what was expected. */
#define swap32_acq_rel(w, v) __atomic_exchange_n(&(w)->word_, (v), __ATOMIC_ACQ_REL)
#define cas32_acq_rel(w, expected, v) atomic_cas32_((w), (expected), (v))
#define cas64_acq_rel(w, expected, v) atomic_cas64_((w), (expected), (v))
/* Sets bits; returns the value that was there before. */
#define or64_acq_rel(w, v) __atomic_fetch_or(&(w)->word_, (v), __ATOMIC_ACQ_REL)

static inline uint32_t atomic_cas32_(shared32 *w, uint32_t expected, uint32_t value)
{
    __atomic_compare_exchange_n(&w->word_, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}

static inline uint64_t atomic_cas64_(shared64 *w, uint64_t expected, uint64_t value)
{
    __atomic_compare_exchange_n(&w->word_, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}

#endif
