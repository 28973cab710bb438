/* The gate, one robust mutex, and the undo log that makes what happens behind it all or nothing.
 *
 * A transaction is a series of undo_write calls ended by undo_commit. Each write first completes a log entry
 * with the old value, then covers it by the log's length, then changes the word; the three stores are ordered
 * by release. A holder that dies leaves EOWNERDEAD to the next one, which puts back what the log covers, from
 * the end. That may be cut short by another death and done again: putting an old value back twice is harmless,
 * and the length shrinks only after the word is back.
 *
 * What a transaction leaves to do after its commit (waiters to serve, results to tell) is the engine's to finish,
 * in its `recover`.
 *
 * If the log itself makes no sense the segment is damaged: the mutex is left inconsistent, and every later
 * locker gets -EBADMSG.
 */
#define _GNU_SOURCE
#include <stdlib.h>

#include "engine.h"

static int undo_recover(struct ss_namespace *ns)
{
    struct control *control = segment_control(ns);
    uint32_t length = load32_acquire(&control->undo_length);

    if (length > SS_UNDO_MAX)
        return -EBADMSG;
    while (length > 0) {
        const struct undo_entry *entry = &control->undo[length - 1];
        uint64_t where = load64_relaxed(&entry->where);
        uint64_t old = load64_relaxed(&entry->old);
        uint64_t width = where & 1 ? 8 : 4;
        uint64_t offset = where & ~1ull;

        if (offset % width != 0 || offset < sizeof(struct header) || offset > ns->geometry.size - width)
            return -EBADMSG;
        if (width == 4)
            store32_release((shared32 *)(void *)(ns->base + offset), (uint32_t)old);
        else
            store64_release((shared64 *)(void *)(ns->base + offset), old);
        store32_release(&control->undo_length, --length);
    }
    return 0;
}

static int gate_recover(struct ss_namespace *ns)
{
    struct control *control = segment_control(ns);
    int rc = undo_recover(ns);

    ns->undo_length = 0;
    ns->unburied = true; /* perhaps: he may have met some, and what he knew is lost */
    if (rc == 0 && ns->engine->recover != NULL)
        rc = ns->engine->recover(ns);
    if (rc == 0)
        rc = robust_consistent(&control->gate);
    if (rc < 0)
        robust_unlock(&control->gate); /* inconsistent: ENOTRECOVERABLE for all from now on */
    return rc;
}

int gate_lock(struct ss_namespace *ns)
{
    struct control *control = segment_control(ns);
    int rc = robust_lock_for(&control->gate, SS_SLICE_NS);

    if (rc == -EOWNERDEAD)
        rc = gate_recover(ns);
    if (rc == -ETIMEDOUT)
        return -EINTR; /* the holder is slow, or stopped */
    if (rc < 0)
        return -EBADMSG;
    ns->undo_length = 0;
    return 0;
}

void gate_unlock(struct ss_namespace *ns)
{
    if (ns->unburied)
        owner_bury_dead(ns);
    robust_unlock(&segment_control(ns)->gate);
}

static void undo_log(struct ss_namespace *ns, uint64_t where, uint64_t old)
{
    struct control *control = segment_control(ns);
    struct undo_entry *entry = &control->undo[ns->undo_length];

    if (ns->undo_length >= SS_UNDO_MAX)
        abort(); /* SS_TRANSACTION rules it out; should it lie, the next holder undoes what we did */
    /* These may not be seen before the commit of the transaction before: release stores, like it. */
    store64_release(&entry->where, where);
    store64_release(&entry->old, old);
    /* Pairs with the load_acquire in undo_recover: a length that covers the entry implies the entry. */
    store32_release(&control->undo_length, ++ns->undo_length);
}

void undo_write32(struct ss_namespace *ns, shared32 *word, uint32_t value)
{
    undo_log(ns, (uint64_t)((uint8_t *)word - ns->base), load32_relaxed(word));
    store32_release(word, value); /* not before the length that covers it */
}

void undo_write64(struct ss_namespace *ns, shared64 *word, uint64_t value)
{
    undo_log(ns, (uint64_t)((uint8_t *)word - ns->base) + 1, load64_relaxed(word));
    store64_release(word, value);
}

void undo_abort(struct ss_namespace *ns)
{
    undo_recover(ns); /* our own log makes sense, or the next holder will say so */
    ns->undo_length = 0;
}

void undo_commit(struct ss_namespace *ns)
{
    ns->undo_length = 0;
    store32_release(&segment_control(ns)->undo_length, 0); /* after every word of the transaction */
}
