/* All schedules of a small program, up to those that only swap steps which commute.
 *
 * EXPLORE_REDUCED is dynamic partial order reduction (Flanagan and Godefroid 2005) with sleep sets (Godefroid
 * 1996). A schedule is run to its end; wherever two steps in it touch one word, at least one of them writing, and
 * neither had to come first, the other order is noted as still to be run. When nothing is noted any more, every
 * order of conflicting steps has been seen.
 *
 * What the theory calls a process is a thread here. Two kinds of transition come from outside: the deadline of a
 * sleeping thread's call may come, and a thread may be killed. Others can take them away (a wake ends the sleep, the
 * thread takes its step instead of dying before it), so they are noted wherever they were possible and conflict
 * with what was done instead: a killed thread conflicts with all its own steps, which makes it die before each.
 *
 * A third kind from outside is a thread that gives up waiting for a lock that is held, at most `slices` times.
 *
 * A fourth, a bounded sleep that ends without anything having happened, is only offered when the program is
 * quiet: nothing is left but kills and such re-looks. It conflicts with everything, so it parts a schedule in two.
 * After each death every thread may look again `relooks` times; before the first it may not, so that a lost wake-up
 * shows as a sleeper at the end and does not heal. A quiet program also counts as over, but where somebody would look
 * again after a kill, the kills are run from there too.
 *
 * EXPLORE_BOUNDED runs every schedule with at most so many preemptions, without reduction: for programs that have
 * too many. EXPLORE_RANDOM runs random ones from a seed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"

#define DEPTH_MAX 4096
#define KINDS 5
#define OUTCOMES_MAX 65536
/* A transition's place in a set: bit `kind * threads + thread`. */
typedef uint64_t set;
#define NOTHING 0xffffffffu /* chosen in a frame in which nothing was done yet */

/* What a transition touches. */
struct touch {
    uint32_t thread;
    uint32_t kind;  /* enum sched_kind */
    uint32_t first; /* of its words in `pool` */
    uint32_t count;
};

/* How far each thread had come: its last step, as depth + 1. */
typedef uint32_t clock_vector[STEP_THREADS_MAX];

struct frame {
    set enabled;
    set todo;    /* noted as to be run from here, done or not */
    set done;
    set sleeping;/* already covered elsewhere until something that conflicts with it happens */
    uint32_t chosen;
    uint32_t kills_left;
    uint32_t preemptions_left;
    uint32_t slices_left;
    uint32_t relooks_left[STEP_THREADS_MAX];
    struct touch touch[KINDS * STEP_THREADS_MAX]; /* of the enabled, and of blocked threads' steps */
    set known;   /* which of `touch` are filled in */
    uint32_t pool_end;    /* `pool` is used up to here by this frame and those before it */
    uint32_t journal_end; /* so long was the journal before the chosen one */
    clock_vector clocks[STEP_THREADS_MAX]; /* of all threads, before the chosen one */
};

struct outcome {
    uint64_t digest;
    uint64_t count;
    uint32_t steps;
    bool endless;
    uint16_t *schedule;
};

static struct frame *frames;
static struct outcome *outcomes;
static uint32_t outcome_count;
static uint32_t *outcome_index; /* hash table of outcomes by digest */
#define INDEX_SIZE (4 * OUTCOMES_MAX)

static struct touched *pool; /* the words of all frames' transitions */
static uint32_t pool_room;

static const struct explore_config *config;
static struct explore_result *result;
static uint32_t threads;
static uint64_t random_state;

static uint32_t thread_of(uint32_t transition)
{
    return transition % threads;
}

static uint32_t kind_of(uint32_t transition)
{
    return transition / threads;
}

static set bit(uint32_t transition)
{
    return transition == NOTHING ? 0 : 1ull << transition;
}

static uint32_t lowest(set transitions)
{
    return (uint32_t)__builtin_ctzll(transitions);
}

static set of_kind(set transitions, uint32_t kind)
{
    return transitions & ((1ull << threads) - 1) << kind * threads;
}

static set steps_of(set transitions)
{
    return of_kind(transitions, SCHED_STEP);
}

static set kills_of(set transitions)
{
    return of_kind(transitions, SCHED_KILL);
}

static set relooks_of(set transitions)
{
    return of_kind(transitions, SCHED_RELOOK);
}

/* ---- conflicts ---- */

static bool conflict(const struct touch *a, const struct touch *b)
{
    if (a->thread == b->thread || a->kind == SCHED_RELOOK || b->kind == SCHED_RELOOK)
        return true;
    for (const struct touched *x = pool + a->first; x < pool + a->first + a->count; x++) {
        for (const struct touched *y = pool + b->first; y < pool + b->first + b->count; y++) {
            if (x->address == y->address && (x->writes || y->writes))
                return true;
        }
    }
    return false;
}

/* ---- looking at the program where it stands ---- */

/* Is there nothing left but kills? */
static bool is_quiet(const struct frame *frame)
{
    return (frame->enabled & ~kills_of(frame->enabled)) == 0;
}

static void note_touch(struct frame *frame, uint32_t thread, uint32_t kind)
{
    uint32_t transition = kind * threads + thread;
    uint32_t count = sched_touched(thread, kind, pool + frame->pool_end);

    frame->touch[transition] = (struct touch){thread, kind, frame->pool_end, count};
    frame->pool_end += count;
    frame->known |= bit(transition);
}

/* May it be granted, as far as the bounds of the search go? */
static bool is_allowed(const struct frame *frame, uint32_t thread, uint32_t kind)
{
    if (kind == SCHED_KILL)
        return frame->kills_left > 0 && (config->killable & bit(thread));
    if (kind == SCHED_SLICE)
        return frame->slices_left > 0;
    return kind != SCHED_RELOOK || frame->relooks_left[thread] > 0;
}

static void look_for(struct frame *frame, uint32_t kind)
{
    for (uint32_t t = 0; t < threads; t++) {
        bool can = is_allowed(frame, t, kind) && sched_can(t, kind);

        if (can)
            frame->enabled |= bit(kind * threads + t);
        if (can || (kind == SCHED_STEP && sched_is_before_a_step(t)))
            note_touch(frame, t, kind);
    }
}

static void make_room_in_pool(uint32_t used)
{
    uint32_t wanted = used + KINDS * STEP_THREADS_MAX * TOUCHED_MAX;

    if (wanted <= pool_room)
        return;
    pool_room = 2 * wanted;
    pool = realloc(pool, pool_room * sizeof *pool);
    if (pool == NULL)
        abort();
}

static void look(uint32_t depth)
{
    struct frame *frame = &frames[depth];

    frame->enabled = frame->known = 0;
    frame->pool_end = depth > 0 ? frames[depth - 1].pool_end : 0;
    make_room_in_pool(frame->pool_end);
    look_for(frame, SCHED_STEP);
    look_for(frame, SCHED_TIMEOUT);
    look_for(frame, SCHED_SLICE);
    look_for(frame, SCHED_KILL);
    if (is_quiet(frame))
        look_for(frame, SCHED_RELOOK);
}

/* ---- happens-before: clocks[t] is how far thread t has seen each other thread ---- */

static clock_vector clocks[STEP_THREADS_MAX];

/* What has happened to a word in the schedule so far. What came before its last write is in that write's clock. */
struct word {
    const void *address;
    clock_vector written;    /* by the last write */
    clock_vector read;       /* by all reads since */
    clock_vector last;       /* each thread's last access */
    clock_vector last_write; /* and its last write */
};

#define WORDS_BITS 14
#define WORDS_MAX (1u << WORDS_BITS)
static struct word *words; /* hash table by address; what is in it once stays */
static uint32_t word_count;

/* What the words were before they were changed, to go back to an earlier frame. */
static struct { struct word *word; struct word was; } *journal;
static uint32_t journal_length, journal_room;

static struct word *word_at(const void *address)
{
    uint32_t slot = (uint32_t)((uint64_t)(uintptr_t)address * 0x9e3779b97f4a7c15ull >> (64 - WORDS_BITS));

    while (words[slot].address != address && words[slot].address != NULL)
        slot = (slot + 1) % WORDS_MAX;
    if (words[slot].address == NULL) {
        if (++word_count > WORDS_MAX / 2)
            abort(); /* a segment of the explorer has a few thousand words */
        words[slot].address = address;
    }
    return &words[slot];
}

static void keep(struct word *word)
{
    if (journal_length == journal_room) {
        journal_room = journal_room == 0 ? 4096 : 2 * journal_room;
        journal = realloc(journal, journal_room * sizeof *journal);
        if (journal == NULL)
            abort();
    }
    journal[journal_length].word = word;
    journal[journal_length++].was = *word;
}

static void join(clock_vector mine, const clock_vector other)
{
    for (uint32_t t = 0; t < STEP_THREADS_MAX; t++)
        mine[t] = mine[t] > other[t] ? mine[t] : other[t];
}

static void access_word(struct word *word, uint32_t thread, bool writes)
{
    const uint32_t *mine = clocks[thread];

    keep(word);
    word->last[thread] = mine[thread];
    if (writes) {
        word->last_write[thread] = mine[thread];
        memcpy(word->written, mine, sizeof word->written);
        memset(word->read, 0, sizeof word->read);
    } else {
        join(word->read, mine);
    }
}

/* The chosen one of this frame happens. */
static void advance_clocks(uint32_t depth)
{
    struct frame *frame = &frames[depth];
    const struct touch *touch = &frame->touch[frame->chosen];
    uint32_t *mine = clocks[touch->thread];

    frame->journal_end = journal_length;
    memcpy(frame->clocks, clocks, sizeof clocks);
    for (uint32_t t = 0; touch->kind == SCHED_RELOOK && t < threads; t++)
        join(mine, clocks[t]);
    for (const struct touched *it = pool + touch->first; it < pool + touch->first + touch->count; it++) {
        join(mine, word_at(it->address)->written);
        if (it->writes)
            join(mine, word_at(it->address)->read);
    }
    mine[touch->thread] = depth + 1;
    for (const struct touched *it = pool + touch->first; it < pool + touch->first + touch->count; it++)
        access_word(word_at(it->address), touch->thread, it->writes);
    for (uint32_t t = 0; touch->kind == SCHED_RELOOK && t < threads; t++)
        memcpy(clocks[t], mine, sizeof clocks[t]); /* it comes after all that was and before all that follows */
}

/* Back to before the chosen one of a frame; NULL: to the beginning. */
static void turn_clocks_back(const struct frame *frame)
{
    uint32_t end = frame == NULL ? 0 : frame->journal_end;

    while (journal_length > end) {
        journal_length--;
        *journal[journal_length].word = journal[journal_length].was;
    }
    if (frame == NULL)
        memset(clocks, 0, sizeof clocks);
    else
        memcpy(clocks, frame->clocks, sizeof clocks);
}

static bool before_thread(uint32_t i, uint32_t thread)
{
    return clocks[thread][frames[i].touch[frames[i].chosen].thread] >= i + 1;
}

/* ---- noting what else has to be run ---- */

/* The enabled transition of frame i that leads to `thread`'s next step: its own, or that of a thread that comes
 * before it. */
static set leads_to(uint32_t i, uint32_t depth, uint32_t thread)
{
    set own = frames[i].enabled &
              (bit(thread) | bit(SCHED_TIMEOUT * threads + thread) | bit(SCHED_SLICE * threads + thread));

    if (own != 0)
        return own & -own;
    for (uint32_t j = i + 1; j < depth; j++) {
        if (before_thread(j, thread) && (frames[i].enabled & bit(frames[j].chosen)))
            return bit(frames[j].chosen);
    }
    return 0;
}

/* The last access to one of the words, in conflict with it and not before the thread, as depth + 1; 0: none. */
static uint32_t last_race(const struct touch *next)
{
    uint32_t found = 0;

    for (const struct touched *it = pool + next->first; it < pool + next->first + next->count; it++) {
        const struct word *word = word_at(it->address);
        const uint32_t *last = it->writes ? word->last : word->last_write;

        for (uint32_t t = 0; t < threads; t++) {
            if (t != next->thread && last[t] > found && last[t] > clocks[next->thread][t])
                found = last[t];
        }
    }
    return found;
}

/* Earlier races than the last are found when that order is run. */
static void note_races_of(uint32_t depth, uint32_t thread)
{
    uint32_t i = last_race(&frames[depth].touch[thread]);
    set also;

    if (i == 0)
        return;
    i--;
    also = leads_to(i, depth, thread);
    frames[i].todo |= also != 0 ? also : frames[i].enabled & ~kills_of(frames[i].enabled);
}

/* The races of the steps that the threads are about to take. Those of a thread that stood there before have been
 * noted, unless the step that was taken makes a new one. */
static void note_races(uint32_t depth)
{
    const struct frame *frame = &frames[depth];
    const struct frame *previous = depth > 0 ? &frames[depth - 1] : NULL;

    for (uint32_t t = 0; t < threads; t++) {
        if (!(frame->known & bit(t)))
            continue;
        if (previous == NULL || !(previous->known & bit(t)) ||
            conflict(&previous->touch[previous->chosen], &frame->touch[t]))
            note_races_of(depth, t);
    }
}

/* Timeouts and kills that were possible, and are not any more, or not in the same way. */
static void note_taken_away(struct frame *frame)
{
    set outside = frame->enabled & ~steps_of(frame->enabled);

    for (set left = outside & ~bit(frame->chosen); left != 0; left &= left - 1) {
        if (conflict(&frame->touch[lowest(left)], &frame->touch[frame->chosen]))
            frame->todo |= left & -left;
    }
}

/* ---- choosing ---- */

static uint64_t next_random(void)
{
    random_state ^= random_state << 13; /* xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint32_t choose_random(set candidates)
{
    uint32_t skip = (uint32_t)(next_random() % (uint32_t)__builtin_popcountll(candidates));

    while (skip-- > 0)
        candidates &= candidates - 1;
    return lowest(candidates);
}

/* Which thread would go on if nobody interfered? */
static set unpreempted(uint32_t depth)
{
    return depth == 0 ? 0 : bit(thread_of(frames[depth - 1].chosen));
}

/* A frame that is reached for the first time: what to run first, and for the unreduced search, all of it.
 * False: everything from here on is covered elsewhere. */
static bool choose_first(uint32_t depth)
{
    struct frame *frame = &frames[depth];
    set candidates = frame->enabled & ~frame->sleeping;
    set calm = candidates & ~kills_of(candidates);
    set going_on = candidates & unpreempted(depth);

    frame->done = 0;
    if (config->method == EXPLORE_RANDOM) {
        /* A kill now and then, or every thread would be dead before it began. */
        frame->chosen = choose_random(calm != 0 && next_random() % 32 != 0 ? calm : candidates);
        frame->todo = bit(frame->chosen);
        return true;
    }
    if (candidates == 0)
        return false;
    if (config->method == EXPLORE_BOUNDED && frame->preemptions_left == 0 && going_on != 0)
        candidates = going_on | (candidates & ~steps_of(candidates));
    frame->chosen = lowest(going_on != 0 ? going_on : calm != 0 ? calm : candidates);
    frame->todo = config->method == EXPLORE_BOUNDED ? candidates : bit(frame->chosen) | relooks_of(candidates);
    return true;
}

/* ---- one schedule ---- */

/* Did a thread die of what was chosen: was it killed, or has it come to its end? */
static bool was_a_death(const struct frame *frame)
{
    struct sched_thread_view view;

    if (kind_of(frame->chosen) == SCHED_KILL)
        return true;
    sched_thread(thread_of(frame->chosen), &view);
    return view.state == SCHED_ENDED;
}

/* Who may look again how often, after what was chosen in the frame before. */
static void inherit_relooks(struct frame *frame, const struct frame *previous)
{
    bool death = was_a_death(previous);

    for (uint32_t t = 0; t < threads; t++) {
        frame->relooks_left[t] = previous->relooks_left[t];
        if (death)
            frame->relooks_left[t] = config->relooks;
    }
    if (kind_of(previous->chosen) == SCHED_RELOOK)
        frame->relooks_left[thread_of(previous->chosen)]--;
}

static void inherit(uint32_t depth)
{
    struct frame *frame = &frames[depth];
    const struct frame *previous = &frames[depth - 1];
    bool preempted;

    if (depth == 0) {
        frame->kills_left = config->kills;
        frame->preemptions_left = config->preemptions;
        frame->slices_left = config->slices;
        frame->sleeping = 0;
        memset(frame->relooks_left, 0, sizeof frame->relooks_left);
        return;
    }
    preempted = kind_of(previous->chosen) == SCHED_STEP && depth > 1 && (previous->enabled & unpreempted(depth - 1)) &&
                thread_of(previous->chosen) != thread_of(frames[depth - 2].chosen);
    frame->kills_left = previous->kills_left - (kind_of(previous->chosen) == SCHED_KILL);
    frame->preemptions_left = previous->preemptions_left - (preempted && previous->preemptions_left > 0);
    frame->slices_left = previous->slices_left - (kind_of(previous->chosen) == SCHED_SLICE);
    inherit_relooks(frame, previous);
    frame->sleeping = 0;
    if (config->method != EXPLORE_REDUCED)
        return;
    for (set left = previous->sleeping & previous->known; left != 0; left &= left - 1) {
        if (!conflict(&previous->touch[lowest(left)], &previous->touch[previous->chosen]))
            frame->sleeping |= left & -left;
    }
}

enum run_end { RUN_COMPLETE, RUN_CUT, RUN_ENDLESS };

/* The kills that could still change something though the program is quiet: somebody else would look again. */
static set late_kills(const struct frame *frame)
{
    set lookers = 0, found = 0;

    for (uint32_t t = 0; config->relooks > 0 && t < threads; t++) {
        if (sched_can(t, SCHED_RELOOK))
            lookers |= bit(t);
    }
    for (uint32_t t = 0; t < threads; t++) {
        if (lookers & ~bit(t))
            found |= frame->enabled & bit(SCHED_KILL * threads + t);
    }
    return found & ~frame->sleeping;
}

/* The program is quiet, and may be left at that. True: it is to go on with a kill. */
static bool goes_on_with_a_kill(struct frame *frame)
{
    frame->chosen = NOTHING;
    frame->done = 0;
    frame->todo = late_kills(frame);
    if (config->method != EXPLORE_RANDOM || frame->todo == 0 || next_random() % 2 == 0)
        return false;
    frame->chosen = choose_random(frame->todo);
    return true;
}

static void grant(uint32_t depth)
{
    uint32_t chosen = frames[depth].chosen;

    if (config->method == EXPLORE_REDUCED)
        advance_clocks(depth);
    sched_grant(thread_of(chosen), kind_of(chosen));
    result->steps++;
}

/* The program up to the last of the first `prefix` choices, which is a new one; the clocks are those from then. */
static void run_prefix(uint32_t prefix)
{
    turn_clocks_back(prefix > 0 ? &frames[prefix - 1] : NULL);
    sched_restart();
    for (uint32_t depth = 0; depth + 1 < prefix; depth++)
        sched_grant(thread_of(frames[depth].chosen), kind_of(frames[depth].chosen));
    if (prefix == 0)
        return;
    result->steps += prefix - 1;
    if (config->method == EXPLORE_REDUCED)
        note_taken_away(&frames[prefix - 1]);
    grant(prefix - 1);
}

/* Runs one schedule: the first `prefix` choices as they stand, then new ones. */
static enum run_end run(uint32_t prefix, uint32_t *depth_out)
{
    run_prefix(prefix);
    for (uint32_t depth = prefix;; depth++) {
        struct frame *frame = &frames[depth];

        *depth_out = depth;
        if (depth >= config->steps_max || depth >= DEPTH_MAX - 1)
            return RUN_ENDLESS;
        inherit(depth);
        look(depth);
        if (config->method == EXPLORE_REDUCED)
            note_races(depth); /* also of a schedule that is cut: only there a thread may stand before a held lock */
        if (is_quiet(frame)) {
            if (!goes_on_with_a_kill(frame)) {
                sched_visit();
                return RUN_COMPLETE;
            }
        } else if (!choose_first(depth)) {
            return RUN_CUT;
        }
        if (config->method == EXPLORE_REDUCED)
            note_taken_away(frame);
        grant(depth);
    }
}

/* ---- outcomes ---- */

static int note_outcome(uint32_t depth, bool endless)
{
    uint64_t digest = endless ? 1 : sched_digest();
    uint32_t slot = (uint32_t)(digest % INDEX_SIZE);
    struct outcome *outcome;

    while (outcome_index[slot] != 0) {
        outcome = &outcomes[outcome_index[slot] - 1];
        if (outcome->digest == digest) {
            outcome->count++;
            return 0;
        }
        slot = (slot + 1) % INDEX_SIZE;
    }
    if (outcome_count == OUTCOMES_MAX)
        return -ENOSPC;
    outcome = &outcomes[outcome_count++];
    outcome_index[slot] = outcome_count;
    *outcome = (struct outcome){digest, 1, depth, endless, malloc((depth + 1) * sizeof(uint16_t))};
    if (outcome->schedule == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < depth; i++)
        outcome->schedule[i] = (uint16_t)(kind_of(frames[i].chosen) << 8 | thread_of(frames[i].chosen));
    return 0;
}

int explore_outcome(uint32_t number, struct explore_outcome *out)
{
    if (number >= outcome_count)
        return -ENOENT;
    out->count = outcomes[number].count;
    out->steps = outcomes[number].steps;
    out->endless = outcomes[number].endless;
    out->schedule = outcomes[number].schedule;
    return 0;
}

/* ---- the search ---- */

/* The deepest of the first `depth` frames with something left to run: makes that the chosen one. Returns the new
 * prefix, 0 at the end. */
static uint32_t backtrack(uint32_t depth)
{
    while (depth-- > 0) {
        struct frame *frame = &frames[depth];
        set left;

        frame->done |= bit(frame->chosen);
        if (config->method == EXPLORE_REDUCED)
            frame->sleeping |= bit(frame->chosen);
        left = frame->todo & ~frame->done & ~frame->sleeping;
        if (left != 0) {
            frame->chosen = lowest(left);
            return depth + 1;
        }
    }
    return 0;
}

static int prepare(void)
{
    if (frames == NULL) {
        frames = calloc(DEPTH_MAX, sizeof *frames);
        outcomes = calloc(OUTCOMES_MAX, sizeof *outcomes);
        outcome_index = calloc(INDEX_SIZE, sizeof *outcome_index);
        words = calloc(WORDS_MAX, sizeof *words);
    }
    if (frames == NULL || outcomes == NULL || outcome_index == NULL || words == NULL)
        return -ENOMEM;
    memset(words, 0, WORDS_MAX * sizeof *words);
    word_count = journal_length = 0;
    for (uint32_t i = 0; i < outcome_count; i++)
        free(outcomes[i].schedule);
    outcome_count = 0;
    memset(outcome_index, 0, INDEX_SIZE * sizeof *outcome_index);
    return 0;
}

int explore(const struct explore_config *wanted, struct explore_result *out)
{
    uint32_t prefix = 0, depth = 0;
    int rc = prepare();

    config = wanted;
    result = out;
    memset(result, 0, sizeof *result);
    threads = sched_threads();
    random_state = config->seed * 0x9e3779b97f4a7c15ull + 1;
    while (rc == 0 && result->schedules < config->schedules_max) {
        enum run_end end = run(prefix, &depth);

        if (end == RUN_CUT) {
            result->cut++;
        } else {
            result->schedules++;
            rc = note_outcome(depth, end == RUN_ENDLESS);
        }
        if (depth > result->longest)
            result->longest = depth;
        if (config->method == EXPLORE_RANDOM)
            continue;
        prefix = backtrack(depth + (end == RUN_COMPLETE)); /* a quiet frame may have kills left to run */
        if (prefix == 0 && rc == 0) {
            result->exhausted = 1;
            break;
        }
    }
    result->outcomes = outcome_count;
    return rc == -ENOSPC ? 0 : rc; /* more endings than can be kept: not exhausted */
}
