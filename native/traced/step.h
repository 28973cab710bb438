/* The traced variant of the seam: every operation on shared state is a step.
 *
 * A step can be recorded (who, where in the source, what on which word, old and new value), can kill its process
 * before it, and can wait for a scheduler's grant. What the steps do is in step.c; who may take one is in
 * scheduler.c. The headers beside this one only turn each operation of the seam into a call of step_*.
 */
#ifndef SS_STEP_H
#define SS_STEP_H

#include <stdint.h>

enum step_op {
    STEP_LOAD,
    STEP_STORE,
    STEP_SWAP,
    STEP_CAS,
    STEP_OR,
    STEP_SLEEP,
    STEP_WAKE,
    STEP_YIELD,
    STEP_INIT,
    STEP_TRYLOCK,
    STEP_LOCK,
    STEP_UNLOCK,
    STEP_CONSISTENT,
    STEP_READ,
    STEP_WRITE,
    STEP_POLL,
    STEP_IOCTL,
    STEP_WAIT,    /* an ioctl that may sleep */
    STEP_HISTORY, /* no access at all: a call begins or has returned, or its thread ends (scheduler.c) */
};

/* Where in the source a step is. */
struct step_site {
    enum step_op op;
    const char *text; /* the word, as the source calls it */
    const char *file;
    int line;
};

#define STEP_SITE(op, text)                                                                \
    __extension__({                                                                        \
        static const struct step_site step_site_ = {op, text, __FILE__, __LINE__};         \
        &step_site_;                                                                       \
    })

uint64_t step_load(const struct step_site *site, const void *word, uint32_t width);
void step_store(const struct step_site *site, void *word, uint32_t width, uint64_t value);
uint64_t step_swap(const struct step_site *site, void *word, uint32_t width, uint64_t value);
uint64_t step_cas(const struct step_site *site, void *word, uint32_t width, uint64_t expected, uint64_t value);
uint64_t step_or(const struct step_site *site, void *word, uint64_t bits);

#endif
