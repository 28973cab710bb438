/* The handoff engine: exact NT semantics in user space. Claim, then consume; whoever signals an object hands it to
 * who waits for it; every waiter sleeps on a word of its own.
 *
 * THE WORD of an object, 64 bits:
 *
 *     bits  0 ... 31   count: tokens of a semaphore, recursion of a mutex, 1 for a signaled event
 *     bits 32 ... 60   owner id of a mutex, 0 if it is free
 *     bit  61          CAPTURED
 *     bit  62          QUEUED
 *     bit  63          ABANDONED, of a mutex: its last owner died owning it
 *
 *     CAPTURED QUEUED  who may change the word
 *     0        0       anybody, by one compare-and-swap (the fast path; not if ABANDONED either)
 *     0        1       who holds the gate. Somebody may be queued: the flag may be set though nobody is, never
 *                      clear though somebody is
 *     1        any     who holds the gate. What the word says may yet be undone, and who holds the gate has still to
 *                      settle the object, or died before he could
 *
 * A SLOW PATH holds the gate. It captures what it looks at (unlogged: a stale CAPTURED costs time, nothing else),
 * acts, settles, and gives the objects free again. Words of captured objects, queues and results are changed through
 * the undo log, and every change from one right state of the segment to the next is one commit. A word is only
 * written under the log while it has CAPTURED, and CAPTURED and QUEUED are cleared only after the commit, unlogged:
 * otherwise a fast path could take from a word that an undo then restores. QUEUED is computed anew when an object is
 * given free, and left alone in all others.
 *
 * SETTLING an object: as long as it is signaled, serve the first of those who wait for all that has all, else the
 * first of those who wait for any. Serving is one commit: the result is written into the waiter's slot, all its
 * entries leave all queues, what it waits for is taken. Whoever is about to be served is asked for a sign of life;
 * the dead leave their queues in a commit of their own, and the walk begins again.
 *
 * THE DEAD own mutexes until somebody notices. NT's kernel abandons them at the death; here that is made good before
 * anything is decided that depends on it: a wait asks for the owners of its own mutexes, and a change, or a wait, for
 * those of the mutexes that anybody waits for together with the object. (And no further: that
 * a waiter of one of their other objects could go on, he finds out himself when he next looks.)
 *
 * PUBLISHING, after the commit and still under the gate: the result is exchanged into the word that the waiter sleeps
 * on. The wake normally comes after the gate is unlocked. A waiter never sees a result that could be undone. The word:
 *
 *     bits 8 ... 31    number of the wait, one more for each that was queued: a result is published only into the
 *                      wait that it belongs to, also by one who recovers what another has left
 *     bits 0 ... 7     0: pending; index + 1: the result (with RESULT_ALL: of a wait for all that has all);
 *                      GONE: the waiter could not get the gate, because somebody is stopped in it, and went away. Who
 *                      finds that out takes its entries out, or puts back what he has just taken for it
 *
 *     written by       from -> to                          holding
 *     the waiter       any -> (number + 1, pending)        the gate, before it queues
 *     the publisher    (number, pending) -> (number, result) by compare-and-swap   the gate
 *     the waiter       (number, pending) -> (number, GONE)   by compare-and-swap   nothing
 *
 * RECOVERY, when the last holder of the gate died in it: undo; publish all results; settle all objects that are still
 * CAPTURED; end a pulse that had begun; give the objects free. It is itself a slow path of commits, and may be cut
 * short and done again.
 *
 * SLEEPS are bounded, because a waker may be killed before it served, published or woke: a waiter that was not woken
 * takes the gate now and then (which recovers), looks whether owners of its mutexes are dead, and then at its word. If
 * the gate cannot be had for a second, somebody is stopped in it, and the waiter goes away (GONE) to come back.
 */
#define _GNU_SOURCE
#include "engine.h"
#include "futex.h"
#include "handoff.h"

#define RESULT_MASK 0xffu
#define RESULT_ALL 0x80u
#define GONE 0x7fu
#define NUMBER_ONE 0x100u

#define ENTRIES (SS_WAIT_MAX + 1) /* of a thread: its objects and its alert */

/* How long a waiter sleeps without a look: with a mutex among what it waits for, and without. */
#define LOOK_INTERVAL_OWNED_NS (100 * NS_PER_MS)
#define LOOK_INTERVAL_NS (1000 * NS_PER_MS)
/* For how long the gate has to be out of reach before it counts as shut: somebody is stopped in it. A wait whose time
 * is up, but that was never queued, then says so; one that is queued gives up its place, to see to signals. */
#define PATIENCE_NS (1000 * NS_PER_MS)
/* How long a wait for a mutex that need not be fair tries to get it before it queues. */
#define BARGE_NS NS_PER_MS
/* How long a wait looks before it sleeps: as long as somebody who runs takes to answer, or, when that has not paid for
 * so many times, as long as it takes to wake him (SPIN_MAX_NS). */
#define SPIN_MIN_NS 3000u
#define MISSES_MAX 16
#define LOOKS_PER_CLOCK 8
/* On one CPU a wait lets others run before it sleeps. If that takes longer than this, somebody has used his time up.
 * What did not pay is not done again for so many times as long as it took, so that no more is lost than one part in
 * so many. */
#define GIVE_WAY_MAX_NS 50000u
#define LOSS_PART 32
/* Waiters that one slow path wakes after the unlock; any more it wakes under the gate, which costs time only. */
#define WAKES_MAX 256

/* Entries of the undo log: a serve, or a queueing, of all that a wait can have. */
SS_TRANSACTION(2 * ENTRIES + SS_WAIT_MAX + 3);
SS_TRANSACTION(2 * ENTRIES + 4);

/* ---- words ---- */

/* The state of an object that nobody else can change: it is captured or queued at, and we hold the gate. */
static struct ss_state held_state(const struct object *object)
{
    struct ss_state state;

    unpack(object, kind_of(object), load64_relaxed(&object->word), &state);
    return state;
}

static void write_state(struct ss_namespace *ns, struct object *object, const struct ss_state *state)
{
    uint64_t flags = load64_relaxed(&object->word) & (CAPTURED | QUEUED);

    undo_write64(ns, &object->word, pack(state) | flags);
}

static bool is_signaled_for(const struct object *object, uint32_t owner)
{
    struct ss_state state = held_state(object);

    return object_is_signaled(&state, owner);
}

/* Logs the taking of a signaled object. Was it an abandoned mutex? */
static bool take(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    struct ss_state state = held_state(object);
    bool abandoned = object_take(&state, owner) != 0;

    if (state.kind != SS_MANUAL_EVENT)
        write_state(ns, object, &state);
    return abandoned;
}

/* ---- slow paths ---- */

/* What one slow path has to give free and to wake at its end. */
struct slow {
    struct ss_namespace *ns;
    struct object *captured[ENTRIES];
    uint32_t captured_count;
    uint32_t served[WAKES_MAX]; /* thread slots */
    uint32_t served_count;
};

static void begin(struct slow *slow, struct ss_namespace *ns)
{
    slow->ns = ns;
    slow->captured_count = slow->served_count = 0;
}

static int enter(struct slow *slow, struct ss_namespace *ns)
{
    begin(slow, ns);
    return gate_lock(ns);
}

/* True if the object was not captured before: from here on only the holder of the gate changes its word. */
static bool mark_captured(struct object *object)
{
    return !(or64_acq_rel(&object->word, CAPTURED) & CAPTURED); /* pairs with the fast paths' exchanges */
}

static void capture(struct slow *slow, struct object *object)
{
    if (mark_captured(object))
        slow->captured[slow->captured_count++] = object;
}

/* After the commit. */
static void give_free(struct object *object)
{
    bool queued = load32_relaxed(&object->any.first) != 0 || load32_relaxed(&object->all.first) != 0;
    uint64_t word = load64_relaxed(&object->word) & ~(CAPTURED | QUEUED);

    store64_release(&object->word, queued ? word | QUEUED : word); /* pairs with the fast paths' loads */
}

static void give_captured_free(struct slow *slow)
{
    while (slow->captured_count > 0)
        give_free(slow->captured[--slow->captured_count]);
}

static void wake_served(struct slow *slow)
{
    while (slow->served_count > 0)
        futex_wake(&segment_thread(slow->ns, slow->served[--slow->served_count])->word, 1);
}

static void finish(struct slow *slow)
{
    give_captured_free(slow);
    gate_unlock(slow->ns);
    wake_served(slow);
}

static void note_served(struct slow *slow, uint32_t slot)
{
    if (slow->served_count < WAKES_MAX)
        slow->served[slow->served_count++] = slot;
    else
        futex_wake(&segment_thread(slow->ns, slot)->word, 1);
}

/* ---- queues ---- */

/* One entry of one thread. */
struct place {
    uint32_t slot;
    uint32_t entry;
};

static uint32_t link_to(struct place place)
{
    return place.slot * ENTRIES + place.entry + 1;
}

static bool link_leads_somewhere(const struct ss_namespace *ns, uint32_t link)
{
    return link <= ns->geometry.threads * ENTRIES;
}

static struct place place_of(uint32_t link)
{
    return (struct place){(link - 1) / ENTRIES, (link - 1) % ENTRIES};
}

static shared32 *next_of(struct ss_namespace *ns, uint32_t link)
{
    struct place place = place_of(link);

    return &segment_thread(ns, place.slot)->next[place.entry];
}

static shared32 *previous_of(struct ss_namespace *ns, uint32_t link)
{
    struct place place = place_of(link);

    return &segment_thread(ns, place.slot)->previous[place.entry];
}

/* Entries of a thread that wait for all of their objects; the rest wait for any, or is an alert. */
static uint32_t entries_for_all(const struct thread_slot *thread)
{
    if (load32_relaxed(&thread->wait_kind) != SS_WAIT_ALL)
        return 0;
    return load32_relaxed(&thread->wait_count) - load32_relaxed(&thread->wait_alert);
}

static struct queue *queue_of(struct ss_namespace *ns, const struct thread_slot *thread, uint32_t entry)
{
    struct object *object = segment_object(ns, load32_relaxed(&thread->waits[entry]));

    return entry < entries_for_all(thread) ? &object->all : &object->any;
}

/* Do the numbers of a queued wait stay within their tables? */
static bool is_intact(struct ss_namespace *ns, const struct thread_slot *thread)
{
    uint32_t count = load32_relaxed(&thread->wait_count);
    uint32_t kind = load32_relaxed(&thread->wait_kind);
    uint32_t alert = load32_relaxed(&thread->wait_alert);

    if (kind < SS_WAIT_ANY || kind > SS_WAIT_ALL || alert > 1 || count <= alert || count > SS_WAIT_MAX + alert)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (load32_relaxed(&thread->waits[i]) >= ns->geometry.capacity ||
            !link_leads_somewhere(ns, load32_relaxed(&thread->next[i])) ||
            !link_leads_somewhere(ns, load32_relaxed(&thread->previous[i])))
            return false;
    }
    return true;
}

static bool queue_is_intact(const struct ss_namespace *ns, const struct queue *queue)
{
    uint32_t first = load32_relaxed(&queue->first), last = load32_relaxed(&queue->last);

    return link_leads_somewhere(ns, first) && link_leads_somewhere(ns, last) && (first == 0) == (last == 0);
}

/* Logs the entry's place at the tail. Its own links are in nobody's way before that. */
static void append(struct ss_namespace *ns, struct queue *queue, struct place place)
{
    struct thread_slot *thread = segment_thread(ns, place.slot);
    uint32_t last = load32_relaxed(&queue->last);

    store32_relaxed(&thread->next[place.entry], 0);
    store32_relaxed(&thread->previous[place.entry], last);
    undo_write32(ns, last == 0 ? &queue->first : next_of(ns, last), link_to(place));
    undo_write32(ns, &queue->last, link_to(place));
}

static void unlink_entry(struct ss_namespace *ns, struct queue *queue, struct place place)
{
    struct thread_slot *thread = segment_thread(ns, place.slot);
    uint32_t next = load32_relaxed(&thread->next[place.entry]);
    uint32_t previous = load32_relaxed(&thread->previous[place.entry]);

    undo_write32(ns, previous == 0 ? &queue->first : next_of(ns, previous), next);
    undo_write32(ns, next == 0 ? &queue->last : previous_of(ns, next), previous);
}

/* Logs that a thread waits no more. 0, or -EBADMSG and nothing logged. */
static int handoff_leave_queues(struct ss_namespace *ns, uint32_t slot)
{
    struct thread_slot *thread = segment_thread(ns, slot);

    if (load32_relaxed(&thread->wait_kind) == SS_WAIT_NONE)
        return 0;
    if (!is_intact(ns, thread))
        return -EBADMSG;
    for (uint32_t i = 0; i < load32_relaxed(&thread->wait_count); i++)
        unlink_entry(ns, queue_of(ns, thread, i), (struct place){slot, i});
    undo_write32(ns, &thread->wait_kind, SS_WAIT_NONE);
    return 0;
}

/* Frees those of a thread's objects that only its waiting has kept. */
static void free_unused(struct ss_namespace *ns, const struct thread_slot *thread)
{
    uint32_t count = segment_bounded(&thread->wait_count, ENTRIES);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = load32_relaxed(&thread->waits[i]);

        if (index < ns->geometry.capacity && load32_relaxed(&segment_object(ns, index)->users) == 0)
            directory_free_if_unused(ns, index);
    }
}

/* The same in a transaction of its own, for a thread that has gone away from its wait. */
static int remove_gone(struct ss_namespace *ns, uint32_t slot)
{
    int rc = handoff_leave_queues(ns, slot);

    undo_commit(ns);
    if (rc == 0)
        free_unused(ns, segment_thread(ns, slot));
    return rc;
}

static int handoff_forget_wait(struct ss_namespace *ns, uint32_t slot)
{
    return load32_relaxed(&segment_thread(ns, slot)->wait_kind) == SS_WAIT_NONE ? 0 : remove_gone(ns, slot);
}

static bool handoff_still_waits(const struct thread_slot *thread)
{
    return (load32_acquire(&thread->word) & RESULT_MASK) != GONE;
}

/* The first in a queue who has gone away: his slot, or SS_NONE. */
static uint32_t first_gone(struct ss_namespace *ns, const struct queue *queue)
{
    uint32_t link = load32_relaxed(&queue->first);

    for (uint32_t steps = 0; link != 0 && link_leads_somewhere(ns, link); steps++) {
        uint32_t slot = place_of(link).slot;

        if (!handoff_still_waits(segment_thread(ns, slot)))
            return slot;
        if (steps > ns->geometry.threads * ENTRIES)
            break;
        link = load32_relaxed(next_of(ns, link));
    }
    return SS_NONE;
}

static void handoff_drop_gone(struct ss_namespace *ns, struct object *object)
{
    for (uint32_t i = 0; i < ns->geometry.threads; i++) {
        uint32_t slot = first_gone(ns, &object->any);

        if (slot == SS_NONE)
            slot = first_gone(ns, &object->all);
        if (slot == SS_NONE || remove_gone(ns, slot) < 0)
            return;
    }
}

/* ---- publishing ---- */

static bool result_is_all(uint32_t result)
{
    return result & RESULT_ALL;
}

static uint32_t result_index(uint32_t result)
{
    return (result & RESULT_MASK & ~RESULT_ALL) - 1;
}

/* First and last + 1 of the entries whose objects a result has taken. */
static void taken_entries(const struct thread_slot *thread, uint32_t result, uint32_t *begin, uint32_t *end)
{
    *begin = result_index(result);
    *end = *begin + 1;
    if (result_is_all(result))
        *end = segment_bounded(&thread->wait_count, ENTRIES) - (load32_relaxed(&thread->wait_alert) & 1);
}

/* Logs what undoes one taking of an object; an object that has become free or full meanwhile stays so. */
static void log_give_back(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned)
{
    struct ss_state state = held_state(object);
    const struct change release = {RELEASE, 1}, set = {SET, 0};
    const struct change leave = {abandoned ? KILL : UNLOCK, owner}; /* its next owner is still to be told */

    if (state.kind == SS_MANUAL_EVENT ||
        apply(state.kind == SS_SEMAPHORE ? &release : state.kind == SS_MUTEX ? &leave : &set, &state) < 0)
        return;
    write_state(ns, object, &state);
}

/* The waiter has gone away between being served and being told: nobody has taken its objects after all. They are
 * captured then, and settled by the caller. */
static void take_back(struct ss_namespace *ns, uint32_t slot, uint32_t result)
{
    struct thread_slot *thread = segment_thread(ns, slot);
    uint64_t abandoned = load64_relaxed(&thread->abandoned);
    uint32_t i, end;

    taken_entries(thread, result, &i, &end);
    for (; i < end && i < ENTRIES; i++) {
        uint32_t index = load32_relaxed(&thread->waits[i]);

        if (index >= ns->geometry.capacity)
            continue;
        mark_captured(segment_object(ns, index));
        log_give_back(ns, segment_object(ns, index), owner_id(slot, load32_relaxed(&thread->generation)),
                      i < 64 && (abandoned >> i & 1));
    }
    undo_write32(ns, &thread->result, 0);
    undo_commit(ns);
}

/* Shows a committed result to its waiter, once; what was shown already is shown again by a wake only. */
static void publish(struct slow *slow, uint32_t slot)
{
    struct thread_slot *thread = segment_thread(slow->ns, slot);
    uint32_t result = load32_relaxed(&thread->result);
    uint32_t pending = result & ~RESULT_MASK;
    uint32_t found;

    if (result == 0)
        return;
    found = cas32_acq_rel(&thread->word, pending, result); /* pairs with the acquires in own_word and go_away */
    if (found == (pending | GONE))
        take_back(slow->ns, slot, result);
    else if (found == pending || found == result)
        note_served(slow, slot);
}

/* ---- serving ---- */

/* Gives a waiter what it waits for: the object of one entry, or of all; `entry` is 0 then. */
static void serve(struct slow *slow, struct place place, bool all)
{
    struct ss_namespace *ns = slow->ns;
    struct thread_slot *thread = segment_thread(ns, place.slot);
    uint32_t id = owner_id(place.slot, load32_relaxed(&thread->generation));
    uint32_t number = load32_relaxed(&thread->word) & ~RESULT_MASK;
    uint32_t end = all ? entries_for_all(thread) : place.entry + 1;
    struct object *also[SS_WAIT_MAX];
    uint32_t also_count = 0;
    uint64_t abandoned = 0;

    for (uint32_t i = place.entry; i < end; i++) {
        struct object *object = segment_object(ns, load32_relaxed(&thread->waits[i]));

        if (mark_captured(object)) /* so that who reads it asks at the gate: this can be undone */
            also[also_count++] = object;
        if (take(ns, object, id))
            abandoned |= 1ull << i;
    }
    handoff_leave_queues(ns, place.slot); /* is_intact: the caller has looked */
    undo_write64(ns, &thread->abandoned, abandoned);
    undo_write32(ns, &thread->result, number | (all ? RESULT_ALL : 0) | (place.entry + 1));
    undo_commit(ns);
    publish(slow, place.slot);
    while (also_count > 0)
        give_free(also[--also_count]);
}

static bool has_all(struct ss_namespace *ns, const struct thread_slot *thread, uint32_t id)
{
    uint32_t end = entries_for_all(thread);

    for (uint32_t i = 0; i < end; i++) {
        if (!is_signaled_for(segment_object(ns, load32_relaxed(&thread->waits[i])), id))
            return false;
    }
    return true;
}

/* Tries one entry of a queue. 1: the queue has changed; 0: it has to go on waiting; -EBADMSG. */
static int try_entry(struct slow *slow, struct object *object, struct place place, bool all)
{
    struct ss_namespace *ns = slow->ns;
    struct thread_slot *thread = segment_thread(ns, place.slot);
    uint32_t id = owner_id(place.slot, load32_relaxed(&thread->generation));

    if (load32_relaxed(&thread->state) != SS_SLOT_USED || !is_intact(ns, thread) ||
        place.entry >= load32_relaxed(&thread->wait_count) || (place.entry < entries_for_all(thread)) != all ||
        load32_relaxed(&thread->waits[place.entry]) != segment_object_index(ns, object))
        return -EBADMSG;
    if (all ? !has_all(ns, thread, id) : !is_signaled_for(object, id))
        return 0; /* and if it is dead, or has gone away, that does no harm here */
    if (!owner_slot_is_alive(ns, place.slot))
        return 1;
    if (!handoff_still_waits(thread)) {
        int rc = remove_gone(ns, place.slot);
        return rc < 0 ? rc : 1;
    }
    serve(slow, all ? (struct place){place.slot, 0} : place, all);
    return 1;
}

/* Serves the first in a queue that can be served. 1: somebody was, or is gone; 0: nobody can be; -EBADMSG. */
static int serve_first(struct slow *slow, struct object *object, struct queue *queue, bool all)
{
    struct ss_namespace *ns = slow->ns;
    uint32_t link = load32_relaxed(&queue->first);

    for (uint32_t steps = 0; link != 0; steps++) {
        int rc;

        if (!link_leads_somewhere(ns, link) || steps > ns->geometry.threads * ENTRIES)
            return -EBADMSG;
        rc = try_entry(slow, object, place_of(link), all);
        if (rc != 0)
            return rc;
        link = load32_relaxed(next_of(ns, link));
    }
    return 0;
}

static int settle(struct slow *slow, struct object *object)
{
    int rc;

    do {
        struct ss_state state = held_state(object);

        if (state.kind == SS_MUTEX ? state.owner != 0 : state.count == 0 && !state.signaled)
            return 0;
        rc = serve_first(slow, object, &object->all, true);
        if (rc == 0)
            rc = serve_first(slow, object, &object->any, false);
    } while (rc > 0);
    return rc;
}

/* ---- changes under the gate ---- */

/* The event that is being pulsed, if one is: reset, and the intention is forgotten, in one commit. */
static void end_pulse(struct ss_namespace *ns)
{
    shared32 *pulsing = &segment_control(ns)->pulsing;
    uint32_t link = load32_relaxed(pulsing);

    if (link == 0)
        return;
    if (link <= ns->geometry.capacity) {
        struct object *object = segment_object(ns, link - 1);
        struct ss_state state = held_state(object);

        object_event_reset(&state);
        write_state(ns, object, &state);
    }
    undo_write32(ns, pulsing, 0);
    undo_commit(ns);
}

/* Sets an event that is not set, serves who waits, and resets it. */
static int pulse(struct slow *slow, struct object *object, struct ss_state *state)
{
    int rc;

    object_event_set(state);
    write_state(slow->ns, object, state);
    undo_write32(slow->ns, &segment_control(slow->ns)->pulsing,
                 segment_link(segment_object_index(slow->ns, object)));
    undo_commit(slow->ns);
    rc = settle(slow, object);
    end_pulse(slow->ns);
    return rc;
}

static int64_t change_under_gate(struct ss_namespace *ns, struct object *object, const struct change *change);

/* Abandons a mutex if its owner is dead. 1 if he was; 0; -EBADMSG. The mutex need not be captured yet. */
static int abandon_if_dead(struct ss_namespace *ns, struct object *object)
{
    struct ss_state state = held_state(object);
    const struct change kill = {KILL, state.owner};
    int64_t rc;

    if (state.kind != SS_MUTEX || state.owner == 0 || owner_is_alive(ns, state.owner))
        return 0;
    rc = change_under_gate(ns, object, &kill);
    if (rc == -EPERM) /* he released it after our look, and died then */
        return 0;
    return rc < 0 ? (int)rc : 1;
}

/* The same for the mutexes among what a thread waits for all of. */
static int abandon_for_waiter(struct ss_namespace *ns, uint32_t slot)
{
    struct thread_slot *thread = segment_thread(ns, slot);
    uint32_t end = is_intact(ns, thread) ? entries_for_all(thread) : 0;

    for (uint32_t i = 0; i < end; i++) {
        int rc = abandon_if_dead(ns, segment_object(ns, load32_relaxed(&thread->waits[i])));

        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The same for all who wait for this object and others. Who waits for all with a mutex of the dead among it has been
 * served at the death, as NT sees it: whatever is about to happen to the object comes after that. Before the first
 * write; nothing of it recurs, since a kill does not come here. */
static int abandon_for_waiters(struct ss_namespace *ns, const struct object *object)
{
    uint32_t link = load32_relaxed(&object->all.first);
    int found = 0;

    for (uint32_t steps = 0; link != 0; steps++) {
        int rc;

        if (!link_leads_somewhere(ns, link) || steps > ns->geometry.threads * ENTRIES)
            return -EBADMSG;
        rc = abandon_for_waiter(ns, place_of(link).slot);
        if (rc < 0)
            return rc;
        if (rc > 0) /* a kill changes queues: again from the beginning. It ends: every kill frees a mutex of the dead */
            steps = 0;
        link = load32_relaxed(rc > 0 ? &object->all.first : next_of(ns, link));
        found |= rc;
    }
    return found;
}

/* The object is captured. */
static int64_t change_captured(struct slow *slow, struct object *object, const struct change *change)
{
    struct ss_state state;
    int64_t result;
    int rc = change->what == KILL ? 0 : abandon_for_waiters(slow->ns, object);

    if (rc < 0)
        return rc;
    state = held_state(object);
    if (change->what == PULSE && !state.signaled)
        return pulse(slow, object, &state);
    result = apply(change, &state);
    if (result < 0)
        return result;
    write_state(slow->ns, object, &state);
    undo_commit(slow->ns);
    rc = settle(slow, object);
    return rc < 0 ? rc : result;
}

static int64_t change_slow(struct ss_namespace *ns, struct object *object, const struct change *change)
{
    struct slow slow;
    int64_t result = enter(&slow, ns);

    if (result < 0)
        return result;
    capture(&slow, object);
    result = change_captured(&slow, object, change);
    finish(&slow);
    return result;
}

/* For a caller that holds the gate and goes on holding it. */
static int64_t change_under_gate(struct ss_namespace *ns, struct object *object, const struct change *change)
{
    struct slow slow;
    int64_t result;

    begin(&slow, ns);
    capture(&slow, object);
    result = change_captured(&slow, object, change);
    give_captured_free(&slow);
    wake_served(&slow);
    return result;
}

static int64_t change_object(struct ss_namespace *ns, struct object *object, uint32_t kind, struct change change)
{
    int64_t result = try_change(object, kind, change);

    return result == -EAGAIN ? change_slow(ns, object, &change) : result;
}

static int64_t handoff_semaphore_release(struct ss_namespace *ns, struct object *object, uint32_t count)
{
    return change_object(ns, object, SS_SEMAPHORE, (struct change){RELEASE, count});
}

static int64_t handoff_mutex_unlock(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    int64_t result = change_object(ns, object, SS_MUTEX, (struct change){UNLOCK, owner});

    if (result == 1)
        wake_barger(object);
    return result;
}

static int64_t handoff_event_set(struct ss_namespace *ns, struct object *object)
{
    return change_object(ns, object, SS_AUTO_EVENT, (struct change){SET, 0});
}

static int64_t handoff_event_reset(struct ss_namespace *ns, struct object *object)
{
    return change_object(ns, object, SS_AUTO_EVENT, (struct change){RESET, 0});
}

static int64_t handoff_event_pulse(struct ss_namespace *ns, struct object *object)
{
    return change_object(ns, object, SS_AUTO_EVENT, (struct change){PULSE, 0});
}

static int64_t handoff_mutex_kill(struct ss_namespace *ns, struct object *object, uint32_t owner)
{
    const struct change kill = {KILL, owner};

    return change_under_gate(ns, object, &kill);
}

static void handoff_give_back(struct ss_namespace *ns, struct object *object, uint32_t owner, bool abandoned)
{
    struct slow slow;

    begin(&slow, ns);
    capture(&slow, object);
    log_give_back(ns, object, owner, abandoned);
    undo_commit(ns);
    settle(&slow, object);
    give_captured_free(&slow);
    wake_served(&slow);
}

/* ---- single calls ---- */

static void handoff_init(struct object *object, const struct ss_state *initial)
{
    store64_relaxed(&object->word, pack(initial));
    store32_relaxed(&object->maximum, initial->maximum);
}

static bool handoff_peek(const struct object *object, uint32_t kind, struct ss_state *state)
{
    uint64_t word = load64_acquire(&object->word);

    unpack(object, kind, word, state);
    return word & CAPTURED;
}

static int handoff_read(struct ss_namespace *ns, struct object *object, uint32_t kind, struct ss_state *state)
{
    int rc;

    if (try_read(object, kind, state))
        return 0;
    rc = gate_lock(ns);
    if (rc < 0)
        return rc;
    rc = kind == SS_MUTEX ? abandon_if_dead(ns, object) : 0;
    if (rc >= 0)
        rc = abandon_for_waiters(ns, object);
    handoff_peek(object, kind, state);
    gate_unlock(ns);
    return rc < 0 ? rc : 0;
}

/* ---- waiting: what can be had at once ---- */

/* Can nothing come of a poll that has found the first object not signaled? A mutex's owner may be dead. */
static bool is_only_a_poll(const struct wait *wait)
{
    return wait->deadline_ns == 0 && wait->count == 1 && wait->alert == NULL && wait->kinds[0] != SS_MUTEX;
}

/* Index 0 may be taken without the gate, by one exchange, or by a look if nothing is to be taken from it. (Looking at
 * several objects one after the other is not one instant.) 0, -ETIMEDOUT, or -EAGAIN: it takes the gate. */
static int try_first(struct wait *wait)
{
    int rc = try_take(wait->objects[0], wait->kinds[0], wait->self->id);

    return rc == -ETIMEDOUT && !is_only_a_poll(wait) ? -EAGAIN : rc;
}

/* What the wait can take at this instant: an index, `count` for the alert, SS_NONE for nothing. */
static uint32_t look(const struct wait *wait)
{
    uint32_t ready = 0;

    for (uint32_t i = 0; i < wait->count; i++) {
        if (!is_signaled_for(wait->objects[i], wait->self->id))
            continue;
        if (wait->kind == SS_WAIT_ANY)
            return i;
        ready++;
    }
    if (ready == wait->count)
        return 0;
    return wait->alert != NULL && is_signaled_for(wait->alert, wait->self->id) ? wait->count : SS_NONE;
}

static void take_at_once(struct wait *wait, uint32_t index)
{
    bool all = wait->kind == SS_WAIT_ALL && index != wait->count;
    uint32_t end = all ? wait->count : index + 1;

    wait->index = index;
    for (uint32_t i = index; i < end; i++) {
        if (take(wait->ns, i == wait->count ? wait->alert : wait->objects[i], wait->self->id))
            wait->abandoned |= 1ull << i;
    }
    undo_commit(wait->ns);
}

/* Abandons those of the wait's mutexes whose owners are dead. 1 if there were any, 0, -EBADMSG. Gate held. */
static int abandon_owned_by_dead(const struct wait *wait)
{
    int found = 0;

    for (uint32_t i = 0; i < wait->count; i++) {
        int rc;

        if (wait->kinds[i] != SS_MUTEX)
            continue;
        if (kind_of(wait->objects[i]) != SS_MUTEX)
            return -EBADMSG;
        rc = abandon_if_dead(wait->ns, wait->objects[i]);
        if (rc < 0)
            return rc;
        found |= rc;
    }
    return found;
}

/* ---- waiting: in the queues ---- */

static bool queues_are_intact(const struct wait *wait)
{
    for (uint32_t i = 0; i < wait->count; i++) {
        if (!queue_is_intact(wait->ns, &wait->objects[i]->any) || !queue_is_intact(wait->ns, &wait->objects[i]->all))
            return false;
    }
    return wait->alert == NULL || queue_is_intact(wait->ns, &wait->alert->any);
}

static uint32_t queue_up(struct wait *wait)
{
    struct ss_namespace *ns = wait->ns;
    uint32_t slot = wait->self->slot;
    struct thread_slot *thread = segment_thread(ns, slot);
    uint32_t count = wait->count + (wait->alert != NULL);
    uint32_t number = (load32_relaxed(&thread->word) & ~RESULT_MASK) + NUMBER_ONE;

    store32_release(&thread->word, number); /* what an undo restores of `result` belongs to another number */
    for (uint32_t i = 0; i < count; i++)
        store32_relaxed(&thread->waits[i], wait->indexes[i]);
    undo_write32(ns, &thread->result, 0);
    undo_write32(ns, &thread->wait_count, count);
    undo_write32(ns, &thread->wait_alert, wait->alert != NULL);
    undo_write32(ns, &thread->wait_kind, wait->kind);
    for (uint32_t i = 0; i < count; i++)
        append(ns, queue_of(ns, thread, i), (struct place){slot, i});
    undo_commit(ns);
    return number;
}

/* What the published word says. 0: the wait has succeeded; -EAGAIN: it is not over; -EBADMSG: no word of ours. */
static int collect(struct wait *wait, uint32_t word)
{
    uint32_t result = word & RESULT_MASK;

    if (result == 0 || result == GONE)
        return -EAGAIN;
    wait->index = result_index(result);
    wait->abandoned = load64_relaxed(&segment_thread(wait->ns, wait->self->slot)->abandoned);
    if (result_is_all(result))
        return wait->kind == SS_WAIT_ALL && wait->index == 0 ? 0 : -EBADMSG;
    if (wait->index == wait->count)
        return wait->alert != NULL ? 0 : -EBADMSG;
    return wait->kind == SS_WAIT_ANY && wait->index < wait->count ? 0 : -EBADMSG;
}

static uint32_t own_word(const struct wait *wait)
{
    /* Pairs with the exchange in publish: the result implies `abandoned`, and what the waker did before. */
    return load32_acquire(&segment_thread(wait->ns, wait->self->slot)->word);
}

/* Sleeps on the own word and on the signs of life of the mutexes' owners, for a while. 0, -EAGAIN: look at the word;
 * -ETIMEDOUT: nothing came; -EINTR. */
static int doze(const struct wait *wait, uint32_t number)
{
    struct futex_sleep sleeps[FUTEX_SLEEP_MAX];
    uint32_t count = 1;
    uint64_t interval_ns = LOOK_INTERVAL_NS;
    uint64_t until_ns;
    int rc;

    sleeps[0] = (struct futex_sleep){&segment_thread(wait->ns, wait->self->slot)->word, number};
    for (uint32_t i = 0; i < wait->count; i++) {
        struct ss_state state;
        shared32 *liveness;
        uint32_t expected;

        if (wait->kinds[i] != SS_MUTEX)
            continue;
        interval_ns = LOOK_INTERVAL_OWNED_NS; /* the owner may change, and the kernel wakes one sleeper per death */
        handoff_peek(wait->objects[i], SS_MUTEX, &state);
        if (state.owner == 0 || state.owner == wait->self->id || owner_slot(state.owner) >= wait->ns->geometry.threads)
            continue;
        liveness = robust_word(&segment_thread(wait->ns, owner_slot(state.owner))->liveness);
        expected = owner_watch(liveness);
        if (expected == 0)
            return -ETIMEDOUT; /* dead already, or no longer the owner: to be looked at now */
        sleeps[count++] = (struct futex_sleep){liveness, expected};
    }
    until_ns = clock_now_ns() + interval_ns;
    if (until_ns > wait->deadline_ns)
        until_ns = wait->deadline_ns;
    rc = count == 1 ? -ENOSYS : futex_waitv(sleeps, count, until_ns);
    if (rc >= 0 || rc == -EAGAIN || rc == -ETIMEDOUT || rc == -EINTR)
        return rc;
    return futex_wait(sleeps[0].word, number, until_ns); /* there is none, or a sandbox forbids it */
}

/* A waker may have died, and so may an owner. 0; -EINTR: the gate cannot be had; -EBADMSG. */
static int look_again(const struct wait *wait)
{
    struct slow slow;
    int rc = enter(&slow, wait->ns); /* recovers, if the last holder died in it */

    if (rc < 0)
        return rc;
    rc = abandon_owned_by_dead(wait);
    finish(&slow);
    return rc < 0 ? rc : 0;
}

/* Ends the wait without the gate, with `why`, unless it already has a result: somebody is stopped in there. Who goes
 * on takes our entries out, or puts back what he has just taken for us. */
static int go_away(struct wait *wait, uint32_t number, int why)
{
    struct thread_slot *thread = segment_thread(wait->ns, wait->self->slot);
    int rc = collect(wait, cas32_acq_rel(&thread->word, number, number | GONE));

    return rc == -EAGAIN ? why : rc;
}

/* The wait ends with `why`, unless it already has a result. */
static int give_up(struct wait *wait, uint32_t number, int why)
{
    struct slow slow;
    int rc = enter(&slow, wait->ns);

    if (rc < 0)
        return go_away(wait, number, rc == -EINTR ? why : rc);
    if (why == -ETIMEDOUT)
        rc = abandon_owned_by_dead(wait);
    if (rc >= 0 && (own_word(wait) & RESULT_MASK) == 0) {
        rc = handoff_leave_queues(wait->ns, wait->self->slot);
        undo_commit(wait->ns);
    }
    finish(&slow);
    if (rc < 0) /* it may still be queued */
        return go_away(wait, number, rc);
    rc = collect(wait, own_word(wait));
    return rc == -EAGAIN ? why : rc;
}

static int sleep_until_served(struct wait *wait, uint32_t number)
{
    uint64_t shut_since_ns = 0; /* 0: the gate could be had when we last looked */
    int rc;

    while ((rc = collect(wait, own_word(wait))) == -EAGAIN) {
        rc = doze(wait, number);
        if (rc == -EINTR || (rc == -ETIMEDOUT && clock_now_ns() >= wait->deadline_ns))
            return give_up(wait, number, rc);
        if (rc == -ETIMEDOUT)
            rc = look_again(wait);
        if (rc == -EBADMSG)
            return go_away(wait, number, rc);
        if (rc != -EINTR)
            shut_since_ns = 0;
        else if (shut_since_ns == 0)
            shut_since_ns = clock_now_ns();
        else if (clock_now_ns() - shut_since_ns > PATIENCE_NS)
            return go_away(wait, number, rc); /* signal handlers are to run, also while somebody is stopped in there */
    }
    return rc;
}

/* The gate could not be had. -ETIMEDOUT if that has been so for long, and the wait's time is up. */
static int stuck(const struct wait *wait)
{
    uint64_t now_ns = clock_now_ns();

    if (*wait->stuck_since_ns == 0)
        *wait->stuck_since_ns = now_ns;
    return now_ns >= wait->deadline_ns && now_ns - *wait->stuck_since_ns > PATIENCE_NS ? -ETIMEDOUT : -EINTR;
}

/* Captures all that is waited for, so that it is one instant from here to the decision, and has the dead abandon what
 * matters to it. 0 or -EBADMSG. */
static int abandon_before_look(struct slow *slow, struct wait *wait)
{
    int rc;

    for (uint32_t i = 0; i < wait->count; i++)
        capture(slow, wait->objects[i]);
    if (wait->alert != NULL)
        capture(slow, wait->alert);
    do { /* whom that serves may die meanwhile, hence again */
        rc = abandon_owned_by_dead(wait);
        for (uint32_t i = 0; i < wait->count && rc == 0; i++)
            rc = abandon_for_waiters(wait->ns, wait->objects[i]);
        if (rc == 0 && wait->alert != NULL)
            rc = abandon_for_waiters(wait->ns, wait->alert);
    } while (rc > 0);
    return rc;
}

/* Takes, queues up or gives up. 0, -ETIMEDOUT, -EBADMSG; -EAGAIN: it is queued, under *number. Gate held. */
static int decide(struct slow *slow, struct wait *wait, uint32_t *number)
{
    uint32_t index;
    int rc = 0;

    if (load32_relaxed(&segment_thread(wait->ns, wait->self->slot)->wait_kind) != SS_WAIT_NONE)
        rc = remove_gone(wait->ns, wait->self->slot);
    if (rc < 0)
        return rc;
    rc = abandon_before_look(slow, wait);
    if (rc < 0)
        return rc;
    index = look(wait);
    if (index != SS_NONE) {
        take_at_once(wait, index);
        return 0;
    }
    if (wait->deadline_ns == 0)
        return -ETIMEDOUT;
    if (!queues_are_intact(wait))
        return -EBADMSG;
    *number = queue_up(wait);
    return -EAGAIN;
}

/* What pays off is done twice as long as it took the next time, what does not half as long. */
static void learn_from_spin(struct registration *self, uint64_t took_ns, bool paid)
{
    uint64_t next_ns = paid ? 2 * took_ns : self->spin_ns / 2;

    self->misses = paid ? 0 : (self->misses + 1) % MISSES_MAX;
    self->spin_ns = next_ns < SPIN_MIN_NS ? SPIN_MIN_NS : next_ns > SPIN_MAX_NS ? SPIN_MAX_NS : (uint32_t)next_ns;
}

/* Looks at the object for a moment, in case it is signaled at once: on another CPU, by somebody who is awake. As
 * long as nobody is queued there, since who comes later must not be first. Now and then it looks for longer: two who
 * wake each other would else never find out that they need not sleep. 0: it was taken; -EAGAIN. */
static int spin(struct wait *wait)
{
    struct registration *self = wait->self;
    uint64_t limit_ns = self->misses == MISSES_MAX - 1 ? SPIN_MAX_NS : self->spin_ns;
    uint64_t begin_ns = clock_now_ns();
    uint64_t took_ns = 0;
    int rc = -EAGAIN;

    while (rc == -EAGAIN && took_ns < limit_ns) {
        for (int i = 0; i < LOOKS_PER_CLOCK && rc == -EAGAIN; i++) {
            cpu_relax();
            if (load64_relaxed(&wait->objects[0]->word) & FLAGS)
                return rc;
            rc = try_first(wait);
        }
        took_ns = clock_now_ns() - begin_ns;
    }
    learn_from_spin(self, took_ns, rc == 0);
    return rc;
}

/* On one CPU, whom we wait for does not run: we let him, which takes half as long as to sleep and be woken. It does not
 * pay if it was for nothing, or if somebody else ran instead, for as long as he may. */
static int give_way(struct wait *wait)
{
    struct registration *self = wait->self;
    uint64_t begin_ns = clock_now_ns();
    uint64_t took_ns;
    int rc = -EAGAIN;

    if (begin_ns < self->gives_way_from_ns)
        return rc;
    cpu_give_way();
    took_ns = clock_now_ns() - begin_ns;
    if (!(load64_relaxed(&wait->objects[0]->word) & FLAGS))
        rc = try_first(wait);
    if (rc != 0 || took_ns > GIVE_WAY_MAX_NS)
        self->gives_way_from_ns = begin_ns + LOSS_PART * took_ns;
    return rc;
}

/* Before a wait queues for one object: perhaps somebody is about to signal it. 0: it was taken; -EAGAIN. */
static int linger(struct wait *wait)
{
    struct registration *self = wait->self;

    if (SPIN_MAX_NS == 0 || wait->deadline_ns == 0 || wait->count != 1 || wait->alert != NULL)
        return -EAGAIN;
    if (self->cpus == 0) {
        self->cpus = cpus_allowed();
        self->spin_ns = SPIN_MIN_NS;
    }
    return self->cpus > 1 ? spin(wait) : give_way(wait);
}

/* Is it for a mutex that need not be fair? */
static bool may_barge(const struct wait *wait)
{
    return wait->deadline_ns != 0 && wait->count == 1 && wait->alert == NULL &&
           load32_relaxed(&wait->objects[0]->barging);
}

/* Tries to get the mutex whenever it is free, and sleeps in between; for BARGE_NS at most. 0; -EAGAIN: it is time to
 * queue; -EINTR. (Who meets a queue does not queue at once: then all would stay in it, and every release would be a
 * change of thread.)
 *
 * `bargers` is 1 if somebody may sleep on it. Who releases the mutex makes it 0 and wakes one; who has slept makes it 1
 * again when he leaves, since others may sleep on. It may be 1 though nobody sleeps. It may be 0 though somebody does
 * if a waker was killed, or one who was woken: then the others sleep out their time. */
static int barge(struct wait *wait)
{
    struct object *object = wait->objects[0];
    uint64_t until_ns;
    int sleeps = 0;
    int rc;

    if (*wait->barges_until_ns == 0) /* once, however often signals interrupt the wait */
        *wait->barges_until_ns = clock_now_ns() + BARGE_NS;
    until_ns = *wait->barges_until_ns < wait->deadline_ns ? *wait->barges_until_ns : wait->deadline_ns;
    do {
        (void)swap32_acq_rel(&object->bargers, 1); /* before the look: a release then wakes us */
        rc = try_first(wait);
        if (rc != -EAGAIN)
            break;
        rc = futex_wait(&object->bargers, 1, until_ns);
        sleeps++;
        if (rc == 0 || rc == -EAGAIN)
            rc = try_first(wait);
        if (rc == -EAGAIN)
            rc = linger(wait);
    } while (rc == -EAGAIN && sleeps < BARGES_MAX && clock_now_ns() < until_ns);
    if (sleeps > 0)
        store32_release(&object->bargers, 1);
    return rc == -ETIMEDOUT ? -EAGAIN : rc;
}

static int wait_slow(struct wait *wait)
{
    struct slow slow;
    uint32_t number = 0;
    int rc = enter(&slow, wait->ns);

    if (rc == -EINTR)
        return stuck(wait);
    if (rc < 0)
        return rc;
    *wait->stuck_since_ns = 0;
    rc = decide(&slow, wait, &number);
    finish(&slow);
    return rc == -EAGAIN ? sleep_until_served(wait, number) : rc;
}

static int handoff_wait_any(struct wait *wait)
{
    int rc = try_first(wait);

    if (rc == -EAGAIN)
        rc = linger(wait);
    if (rc == -EAGAIN && may_barge(wait))
        rc = barge(wait);
    return rc == -EAGAIN ? wait_slow(wait) : rc;
}

static int handoff_wait_all(struct wait *wait)
{
    return wait->count == 1 ? handoff_wait_any(wait) : wait_slow(wait);
}

/* ---- recovery ---- */

/* The object with that index, if a dead holder of the gate has left it captured; else NULL. */
static struct object *left_captured(struct ss_namespace *ns, uint32_t index)
{
    struct object *object = segment_object(ns, index);

    return load64_relaxed(&object->word) & CAPTURED && kind_of(object) != SS_FREE ? object : NULL;
}

static int handoff_recover(struct ss_namespace *ns)
{
    uint32_t objects = segment_bounded(&segment_control(ns)->objects_fresh, ns->geometry.capacity);
    uint32_t threads = segment_bounded(&segment_control(ns)->threads_fresh, ns->geometry.threads);
    struct slow slow;
    int rc = 0;

    begin(&slow, ns);
    for (uint32_t slot = 0; slot < threads; slot++) { /* first: it may put something back, to be settled */
        if (load32_relaxed(&segment_thread(ns, slot)->state) == SS_SLOT_USED)
            publish(&slow, slot);
    }
    for (uint32_t i = 0; i < objects && rc == 0; i++) {
        if (left_captured(ns, i) != NULL)
            rc = settle(&slow, segment_object(ns, i));
    }
    if (rc == 0)
        end_pulse(ns);
    for (uint32_t i = 0; i < objects && rc == 0; i++) {
        if (left_captured(ns, i) != NULL)
            give_free(segment_object(ns, i));
    }
    wake_served(&slow);
    return rc;
}

static int handoff_probe(void)
{
    return 0; /* futex_waitv, where the kernel has it, only brings quicker news of a death */
}

const struct engine engine_handoff = {
    .id = SS_ENGINE_HANDOFF,
    .sweeps = false,
    .probe = handoff_probe,
    .init = handoff_init,
    .peek = handoff_peek,
    .read = handoff_read,
    .semaphore_release = handoff_semaphore_release,
    .mutex_unlock = handoff_mutex_unlock,
    .event_set = handoff_event_set,
    .event_reset = handoff_event_reset,
    .event_pulse = handoff_event_pulse,
    .wait_any = handoff_wait_any,
    .wait_all = handoff_wait_all,
    .still_waits = handoff_still_waits,
    .mutex_kill = handoff_mutex_kill,
    .give_back = handoff_give_back,
    .leave_queues = handoff_leave_queues,
    .forget_wait = handoff_forget_wait,
    .drop_gone = handoff_drop_gone,
    .recover = handoff_recover,
};
