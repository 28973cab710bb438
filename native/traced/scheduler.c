/* Threads of a small program as coroutines, granted one step at a time.
 *
 * All threads run in one thread of the system, so nothing happens between two grants, and a run repeats exactly.
 * Each always stands before a step: sched_await hands control back, and the grant lets it take that step and go on
 * to the next. Futex sleeps, wakes and robust mutexes are emulated on the same words of the segment: a sleeping
 * thread is one that only a wake makes ready again (or that its time is up), a thread before a lock that is held
 * cannot be granted, and a killed thread leaves its robust mutexes as the kernel does.
 *
 * Two ways for a sleep's time to be up: SCHED_TIMEOUT, the deadline of the call comes, and from then on it is so late
 * for the thread until the call ends; SCHED_RELOOK, the sleep was shorter than the call may last, and nothing has
 * happened: the clock does not move.
 *
 * Woken threads go on at once to their next step; that changes nothing that others could see.
 *
 * A wake of less than all wakes the sleepers in the order of their numbers. Whether the kernel takes another is not
 * explored.
 */
#undef _FORTIFY_SOURCE /* its longjmp refuses to change stacks */
#define _GNU_SOURCE
#include "scheduler.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "device.h"
#include "engine.h"
#include "eventfd.h"
#include "futex.h"
#include "handle.h"
#include "real.h"

#define STACK_BYTES (128 * 1024)
#define OPS_MAX 16
#define EVENTS_MAX ((3 * OPS_MAX + 1) * STEP_THREADS_MAX)
#define MUTEXES_MAX 32

struct mutex_state {
    const robust_mutex *mutex;
    bool inconsistent;  /* locked after EOWNERDEAD, not yet consistent */
    bool unrecoverable; /* unlocked in that state */
};

struct thread {
    enum sched_state state;
    bool started;
    bool begun;          /* the current call has taken its first step */
    bool sliced;         /* it has given up waiting for the lock that it stands before */
    bool slept;          /* and has been asleep */
    bool killed;
    jmp_buf context;
    ucontext_t entry;
    char *stack;
    const struct step_site *site; /* the step it stands before */
    const void *address;
    bool writes;
    struct futex_sleep sleeps[FUTEX_SLEEP_MAX];
    uint32_t sleep_count;
    uint64_t deadline_ns; /* of its sleep */
    bool late;           /* the deadline of its call has come */
    int woken;           /* what its sleep will return */
    robust_mutex *held[SCHED_HELD_MAX];
    uint32_t held_count;
    uint32_t op;
    uint32_t op_count;
    struct sched_op ops[OPS_MAX];
    struct sched_result results[OPS_MAX];
};

static struct thread threads[STEP_THREADS_MAX + 1];
static uint32_t thread_count;
static uint32_t running; /* number + 1 of the thread that runs; 0: the scheduler */
static jmp_buf scheduler;
static struct ss_namespace *segment;
static uint8_t *snapshot; /* of the segment, when the program begins */
static struct mutex_state mutexes[MUTEXES_MAX];
static uint32_t mutex_count;
static struct sched_event events[EVENTS_MAX];
static uint32_t event_count;
static bool wide_values_refused;
static bool register_first; /* threads are registered before the program begins */
static bool free_running;   /* steps are not scheduled: between programs */

uint32_t step_self(void)
{
    return running;
}

bool sched_is_free_running(void)
{
    return free_running;
}

uint32_t sched_tid(uint32_t thread)
{
    return 1000 + thread;
}

uint32_t sched_threads(void)
{
    return thread_count;
}

/* ---- running ---- */

static void note_event(uint32_t thread, uint32_t kind)
{
    if (event_count < EVENTS_MAX)
        events[event_count++] = (struct sched_event){thread, threads[thread].op, kind};
}

static void note_begin(struct thread *self)
{
    if (!self->begun)
        note_event((uint32_t)(self - threads), EVENT_BEGINS);
    self->begun = true;
}

static void to_scheduler(struct thread *self)
{
    if (_setjmp(self->context) == 0)
        _longjmp(scheduler, 1);
}

static int64_t call_wait(const struct sched_op *op, struct sched_result *result)
{
    struct ss_wait wait = {.count = op->count, .all = op->all, .alert = op->alert, .signal = op->signal};
    int rc;

    wait.deadline_ns = op->deadline_ns;
    for (uint32_t i = 0; i < op->count && i < 8; i++)
        wait.handles[i] = op->handles[i];
    do
        rc = ss_wait(&wait);
    while (rc == -EINTR); /* as Python does, once signal handlers have run */
    result->index = wait.index;
    result->abandoned = wait.abandoned;
    return rc;
}

/* Without steps: what an object in the segment says, or the descriptor that it is. */
static void read_object(uint32_t index, uint32_t kind, struct ss_state *state)
{
    struct object *object = segment_object(segment, index);

    if (segment->descriptors != NULL)
        segment->engine->read(segment, object, kind, state);
    else
        segment->engine->peek(object, kind, state);
}

static int64_t call_abandon(const struct sched_op *op)
{
    struct ss_handle *handle = op->handles[0];
    struct object *object = segment_object(segment, handle->index);
    struct ss_state state;
    int64_t result = gate_lock(segment);

    if (result < 0)
        return result;
    segment->engine->peek(object, handle->kind, &state);
    result = state.owner == 0 ? -EPERM : segment->engine->mutex_kill(segment, object, state.owner);
    gate_unlock(segment);
    return result;
}

static int64_t call_sweep(void)
{
    int rc = gate_lock(segment);

    if (rc < 0)
        return rc;
    owner_reap_threads(segment);
    gate_unlock(segment);
    return 0;
}

static int64_t run_call(const struct sched_op *op, struct sched_result *result)
{
    switch (op->call) {
    case CALL_WAIT:
        return call_wait(op, result);
    case CALL_SEMAPHORE_RELEASE:
        return ss_semaphore_release(op->handles[0], op->amount);
    case CALL_MUTEX_RELEASE:
        return ss_mutex_release(op->handles[0]);
    case CALL_EVENT_SET:
        return ss_event_set(op->handles[0]);
    case CALL_EVENT_RESET:
        return ss_event_reset(op->handles[0]);
    case CALL_EVENT_PULSE:
        return ss_event_pulse(op->handles[0]);
    case CALL_READ:
        return ss_read(op->handles[0], &result->state);
    case CALL_SWEEP:
        return call_sweep();
    case CALL_ABANDON:
        return call_abandon(op);
    default:
        return -EINVAL;
    }
}

/* What came before what in the history of calls matters to who judges it, though no word in the segment tells. So,
 * where asked for, a call begins and returns in steps of their own, and each thread has a word for them: a return, a
 * sleep and a death write the thread's, and a beginning reads all. That makes them conflict crosswise, and only so. */
static bool with_history;
static const char history[STEP_THREADS_MAX];
static const struct step_site begins = {STEP_HISTORY, "begins", __FILE__, __LINE__};
static const struct step_site returns = {STEP_HISTORY, "returns", __FILE__, __LINE__};
static const struct step_site dies = {STEP_HISTORY, "dies", __FILE__, __LINE__};

void sched_history(uint32_t on)
{
    with_history = on != 0;
}

static void history_step(struct thread *self, const struct step_site *site)
{
    if (!with_history)
        return;
    self->site = site;
    self->address = NULL;
    to_scheduler(self);
}

static void run_program(struct thread *self)
{
    uint32_t number = (uint32_t)(self - threads);

    for (self->op = 0; self->op < self->op_count; self->op++) {
        struct sched_result *result = &self->results[self->op];

        if (self->ops[self->op].call == CALL_EXIT) {
            history_step(self, &dies);
            self->state = SCHED_ENDED;
            note_event(number, EVENT_DIES);
            return;
        }
        self->begun = self->slept = self->late = false;
        history_step(self, &begins);
        if (with_history)
            note_begin(self);
        do
            result->code = run_call(&self->ops[self->op], result);
        while (result->code == -EINTR);
        note_begin(self); /* if it took no step at all */
        history_step(self, &returns);
        result->finished = 1;
        note_event(number, EVENT_RETURNS);
    }
    self->state = SCHED_DONE;
}

static void mutexes_of_dead(struct thread *dead);

static void coroutine(void)
{
    struct thread *self = &threads[running - 1];

    run_program(self);
    if (self->state == SCHED_ENDED)
        mutexes_of_dead(self);
    _longjmp(scheduler, 1);
}

/* Lets a thread run up to its next step. */
static void resume(uint32_t number)
{
    struct thread *self = &threads[number];

    running = number + 1;
    if (_setjmp(scheduler) == 0) {
        if (self->started)
            _longjmp(self->context, 1);
        self->started = true;
        setcontext(&self->entry);
    }
    running = 0;
}

/* Threads that a wake has made ready, and that have not run since. */
static void resume_woken(void)
{
    for (uint32_t i = 0; i < thread_count; i++) {
        if (threads[i].state == SCHED_SLEEPING && threads[i].woken != INT_MIN) {
            threads[i].state = SCHED_READY;
            resume(i);
        }
    }
}

/* ---- what a step asks for ---- */

void sched_await(const struct step_site *site, const void *address, bool writes)
{
    struct thread *self = &threads[running - 1];

    if (free_running)
        return;
    self->site = site;
    self->address = address;
    self->writes = writes;
    to_scheduler(self);
    note_begin(self);
}

/* Until when the call of a thread may last. */
static uint64_t call_deadline(const struct thread *thread)
{
    const struct sched_op *op = &thread->ops[thread->op];

    return op->call == CALL_WAIT ? op->deadline_ns : SS_FOREVER;
}

uint64_t sched_now_ns(void)
{
    const struct thread *self = &threads[running - 1];

    return self->late ? call_deadline(self) : NS_PER_SECOND;
}

void sched_await_any(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count,
                     uint64_t deadline_ns)
{
    struct thread *self = &threads[running - 1];

    self->sleep_count = count;
    memcpy(self->sleeps, sleeps, count * sizeof *sleeps);
    self->deadline_ns = deadline_ns;
    sched_await(site, sleeps[0].word, false);
}

void sched_await_device(const struct step_site *site, const void *address, uint64_t deadline_ns)
{
    struct thread *self = &threads[running - 1];

    self->sleep_count = 1;
    self->sleeps[0].word = (const shared32 *)(const void *)&device_state;
    self->deadline_ns = deadline_ns;
    sched_await(site, address, true);
}

void sched_returned(uint32_t thread)
{
    if (threads[thread].state == SCHED_SLEEPING && threads[thread].woken == INT_MIN)
        threads[thread].woken = 0;
}

int sched_doze(void)
{
    struct thread *self = &threads[running - 1];

    self->woken = INT_MIN;
    self->state = SCHED_SLEEPING;
    if (!self->slept)
        note_event((uint32_t)(self - threads), EVENT_SLEEPS);
    self->slept = true;
    to_scheduler(self);
    return self->woken;
}

int sched_sleep(const struct step_site *site, const struct futex_sleep *sleeps, uint32_t count, uint64_t deadline_ns)
{
    struct thread *self = &threads[running - 1];

    if (count > FUTEX_SLEEP_MAX)
        return -EINVAL;
    sched_await_any(site, sleeps, count, deadline_ns);
    self->woken = INT_MIN;
    for (uint32_t i = 0; i < count; i++) {
        if (sleeps[i].expected >> 32 && wide_values_refused)
            self->woken = -EINVAL;
        else if (sleeps[i].word->word_ != (uint32_t)sleeps[i].expected && self->woken == INT_MIN)
            self->woken = -EAGAIN;
    }
    if (self->woken == INT_MIN && deadline_ns <= sched_now_ns())
        self->woken = -ETIMEDOUT;
    step_note(site, SCHED_STEP, sleeps[0].word, sleeps[0].expected, sleeps[0].word->word_,
              self->woken == INT_MIN ? 0 : self->woken);
    return self->woken == INT_MIN ? sched_doze() : self->woken;
}

int sched_wake(const void *word, int count)
{
    int woken = 0;

    for (uint32_t t = 0; t < thread_count && woken < count; t++) {
        struct thread *sleeper = &threads[t];

        if (sleeper->state != SCHED_SLEEPING || sleeper->woken != INT_MIN)
            continue;
        for (uint32_t i = 0; i < sleeper->sleep_count; i++) {
            if ((const void *)sleeper->sleeps[i].word == word) {
                sleeper->woken = (int)i;
                woken++;
                break;
            }
        }
    }
    return woken;
}

/* ---- robust mutexes, as glibc and the kernel have them ---- */

static struct mutex_state *state_of(const robust_mutex *m)
{
    for (uint32_t i = 0; i < mutex_count; i++) {
        if (mutexes[i].mutex == m)
            return &mutexes[i];
    }
    if (mutex_count == MUTEXES_MAX)
        abort();
    mutexes[mutex_count] = (struct mutex_state){m, false, false};
    return &mutexes[mutex_count++];
}

static uint32_t *lock_word(robust_mutex *m)
{
    return &robust_word(m)->word_;
}

static bool is_held(robust_mutex *m)
{
    return (*lock_word(m) & ROBUST_TID_MASK) != 0;
}

/* A lock that is waited for: it can be had by now, or the wait for it was given up. */
int sched_lock_for(robust_mutex *m)
{
    struct thread *self = &threads[running - 1];

    if (self->sliced) {
        self->sliced = false;
        return -ETIMEDOUT;
    }
    return sched_trylock(m);
}

int sched_trylock(robust_mutex *m)
{
    struct thread *self = &threads[running - 1];
    struct mutex_state *state = state_of(m);
    bool died = *lock_word(m) & ROBUST_OWNER_DIED;

    if (!real_is_intact(m))
        return -EBADMSG;
    if (state->unrecoverable)
        return -ENOTRECOVERABLE;
    if (is_held(m))
        return -EBUSY;
    if (self->held_count == SCHED_HELD_MAX)
        abort();
    *lock_word(m) = sched_tid(running - 1) | (*lock_word(m) & ROBUST_WAITERS);
    self->held[self->held_count++] = m;
    state->inconsistent = died;
    return died ? -EOWNERDEAD : 0;
}

static void let_go(struct thread *holder, robust_mutex *m)
{
    for (uint32_t i = 0; i < holder->held_count; i++) {
        if (holder->held[i] == m) {
            holder->held[i] = holder->held[--holder->held_count];
            return;
        }
    }
}

int sched_unlock(robust_mutex *m)
{
    struct mutex_state *state = state_of(m);
    bool waiters = *lock_word(m) & ROBUST_WAITERS;

    if ((*lock_word(m) & ROBUST_TID_MASK) != sched_tid(running - 1))
        return -EPERM;
    let_go(&threads[running - 1], m);
    state->unrecoverable = state->inconsistent;
    *lock_word(m) = 0;
    if (waiters)
        sched_wake(lock_word(m), state->unrecoverable ? INT_MAX : 1);
    return 0;
}

int sched_consistent(robust_mutex *m)
{
    state_of(m)->inconsistent = false;
    return 0;
}

static void mutexes_of_dead(struct thread *dead)
{
    for (uint32_t i = 0; i < dead->held_count; i++) {
        uint32_t *word = lock_word(dead->held[i]);
        bool waiters = *word & ROBUST_WAITERS;

        *word = (*word & ROBUST_WAITERS) | ROBUST_OWNER_DIED;
        if (waiters)
            sched_wake(word, 1);
    }
    dead->held_count = 0;
}

/* ---- control ---- */

static bool stands_before_a_held_lock(const struct thread *thread)
{
    return thread->state == SCHED_READY && thread->site != NULL && thread->site->op == STEP_LOCK &&
           is_held((robust_mutex *)(uintptr_t)thread->address);
}

bool sched_is_before_a_step(uint32_t number)
{
    return threads[number].state == SCHED_READY;
}

int sched_can(uint32_t number, uint32_t kind)
{
    const struct thread *thread = &threads[number];

    if (number >= thread_count)
        return 0;
    if (kind == SCHED_STEP)
        return thread->state == SCHED_READY && !stands_before_a_held_lock(thread);
    if (kind == SCHED_TIMEOUT)
        return thread->state == SCHED_SLEEPING && thread->deadline_ns != SS_FOREVER &&
               call_deadline(thread) != SS_FOREVER && call_deadline(thread) != 0;
    if (kind == SCHED_RELOOK)
        return thread->state == SCHED_SLEEPING && thread->deadline_ns < call_deadline(thread);
    if (kind == SCHED_SLICE)
        return stands_before_a_held_lock(thread);
    return kind == SCHED_KILL && thread->state < SCHED_ENDED;
}

/* Lets a thread take its step, its deadline or the end of its sleep come, or kills it. -EINVAL if that cannot be
 * now. */
int sched_grant(uint32_t number, uint32_t kind)
{
    struct thread *thread = &threads[number];

    if (!sched_can(number, kind))
        return -EINVAL;
    if (kind == SCHED_KILL) {
        thread->state = SCHED_DEAD;
        note_event(number, EVENT_DIES);
        running = number + 1;
        step_note(NULL, SCHED_KILL, NULL, 0, 0, 0);
        running = 0;
        device_leave(number);
        mutexes_of_dead(thread);
    } else {
        if (kind != SCHED_STEP) {
            thread->state = SCHED_READY;
            thread->woken = -ETIMEDOUT;
            thread->late = thread->late || kind == SCHED_TIMEOUT;
            thread->sliced = kind == SCHED_SLICE;
            running = number + 1;
            step_note(NULL, kind, NULL, 0, 0, 0);
        }
        resume(number);
    }
    device_settle();
    resume_woken();
    return 0;
}

int sched_thread(uint32_t number, struct sched_thread_view *out)
{
    const struct thread *thread = &threads[number];

    if (number >= thread_count)
        return -ENOENT;
    *out = (struct sched_thread_view){.state = thread->state, .op = thread->op};
    out->may_time_out = (uint32_t)sched_can(number, SCHED_TIMEOUT);
    out->may_look_again = (uint32_t)sched_can(number, SCHED_RELOOK);
    if (thread->state != SCHED_READY)
        return 0;
    if (stands_before_a_held_lock(thread))
        out->state = SCHED_BLOCKED;
    out->pending_op = thread->site->op;
    out->pending_op_name = step_op_name(thread->site->op);
    out->pending_line = thread->site->line;
    out->pending_file = thread->site->file;
    out->pending_text = thread->site->text;
    out->pending_address = (uint64_t)(uintptr_t)thread->address;
    return 0;
}

int sched_result(uint32_t number, uint32_t op, struct sched_result *out)
{
    if (number >= thread_count || op >= threads[number].op_count)
        return -ENOENT;
    *out = threads[number].results[op];
    return 0;
}

/* What the kernel knows of an object, as two words like those of fsync. */
static void words_in_the_kernel(uint32_t index, uint32_t words[2])
{
    struct ss_state state;

    sched_state(index, &state);
    words[0] = state.kind == SS_MUTEX ? state.owner : state.count + state.signaled;
    words[1] = state.kind == SS_MUTEX ? state.count : state.maximum;
    if (state.abandoned)
        words[0] = UINT32_MAX;
}

void sched_words(uint32_t index, uint32_t words[2])
{
    if (segment->engine->open_device != NULL) {
        words_in_the_kernel(index, words);
        return;
    }
    words[0] = segment_object(segment, index)->word0.word_;
    words[1] = segment_object(segment, index)->word1.word_;
}

uint64_t sched_counter(uint32_t index)
{
    const uint64_t *counter = NULL;

    if (segment->descriptors != NULL)
        counter = eventfd_counter(descriptor_of(segment, segment_object(segment, index)));
    return counter == NULL ? UINT64_MAX : *counter;
}

void sched_state(uint32_t index, struct ss_state *out)
{
    uint32_t kind = segment_object(segment, index)->kind.word_;

    memset(out, 0, sizeof *out);
    if (kind != SS_FREE)
        read_object(index, kind, out);
}

uint32_t sched_owner_id(uint32_t number)
{
    struct registration *self;

    running = number + 1;
    self = owner_registered(segment);
    running = 0;
    return self == NULL ? 0 : self->id;
}

uint32_t sched_events(void)
{
    return event_count;
}

int sched_event(uint32_t number, struct sched_event *out)
{
    if (number >= event_count)
        return -ENOENT;
    *out = events[number];
    return 0;
}

/* ---- what a transition touches ---- */

static bool looks_at_several(const struct thread *thread)
{
    return thread->site->op == STEP_SLEEP || thread->site->op == STEP_POLL;
}

static bool calls_the_driver(const struct thread *thread)
{
    return thread->site->op == STEP_IOCTL || thread->site->op == STEP_WAIT;
}

/* Of a thread before a step: does it write its word of the history? */
static bool ends_something(const struct thread *thread)
{
    return thread->site == &returns || thread->site->op == STEP_WAIT || looks_at_several(thread);
}

uint32_t sched_touched(uint32_t number, uint32_t kind, struct touched out[TOUCHED_MAX])
{
    static const char kills = 0; /* as if each kill wrote it: they conflict with each other */
    const struct thread *thread = &threads[number];
    bool is_death = kind == SCHED_KILL || (kind == SCHED_STEP && thread->site == &dies);
    uint32_t count = 0;

    if (with_history && (is_death || (kind == SCHED_STEP && ends_something(thread))))
        out[count++] = (struct touched){&history[number], true};
    for (uint32_t t = 0; kind == SCHED_STEP && thread->site == &begins && t < thread_count; t++)
        out[count++] = (struct touched){&history[t], false};
    for (uint32_t i = 0; is_death && i < thread->held_count; i++)
        out[count++] = (struct touched){thread->held[i], true};
    if (kind == SCHED_KILL) {
        out[count++] = (struct touched){&kills, true};
        /* A wake of few may mean it, or somebody else if it is dead. */
        for (uint32_t i = 0; thread->state == SCHED_SLEEPING && i < thread->sleep_count; i++)
            out[count++] = (struct touched){thread->sleeps[i].word, false};
    } else if (kind == SCHED_TIMEOUT || (kind == SCHED_STEP && looks_at_several(thread))) {
        for (uint32_t i = 0; i < thread->sleep_count; i++)
            out[count++] = (struct touched){thread->sleeps[i].word, false};
    } else if (kind == SCHED_STEP && calls_the_driver(thread)) {
        out[count++] = (struct touched){&device_state, thread->writes};
    } else if ((kind == SCHED_STEP || kind == SCHED_SLICE) && thread->address != NULL) {
        out[count++] = (struct touched){thread->address, thread->writes && kind == SCHED_STEP};
    }
    return count;
}

/* ---- beginning and ending ---- */

static void forget_registrations(void)
{
    for (uint32_t i = 0; i < STEP_THREADS_MAX; i++) {
        running = i + 1;
        owner_forget_all();
    }
    running = 0;
}

int sched_begin(struct ss_namespace *ns, uint32_t count, uint32_t registered)
{
    if (count < 1 || count > STEP_THREADS_MAX)
        return -EINVAL;
    segment = ns;
    thread_count = count;
    register_first = registered != 0;
    wide_values_refused = real_refuses_wide_values();
    snapshot = malloc((size_t)ns->geometry.size);
    if (snapshot == NULL)
        return -ENOMEM;
    memcpy(snapshot, ns->base, (size_t)ns->geometry.size);
    eventfd_keep();
    for (uint32_t i = 0; i < count; i++) {
        threads[i].op_count = 0;
        if (threads[i].stack == NULL) {
            threads[i].stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (threads[i].stack == MAP_FAILED) {
                threads[i].stack = NULL;
                return -ENOMEM;
            }
        }
    }
    return 0;
}

int sched_program(uint32_t number, const struct sched_op *ops, uint32_t count)
{
    if (number >= thread_count || count > OPS_MAX)
        return -EINVAL;
    memcpy(threads[number].ops, ops, count * sizeof *ops);
    threads[number].op_count = count;
    return 0;
}

/* Objects that the kernel keeps are made again, as the segment's words say, under the descriptors that they had. */
static void renew_objects(void)
{
    uint32_t end = segment_control(segment)->objects_fresh.word_;

    for (uint32_t i = 0; segment->engine->open_device != NULL && i < end; i++) {
        const struct object *object = segment_object(segment, i);
        int old = descriptor_of(segment, object);
        int made;

        if (old < 0)
            continue;
        made = segment->engine->make(segment, object, object->kind.word_);
        if (made < 0 || dup3(made, old, O_CLOEXEC) < 0)
            abort();
        close(made);
    }
}

static void forget_waits(void)
{
    for (uint32_t i = 0; i < STEP_THREADS_MAX; i++)
        device_leave(i);
}

/* Calls that were cut short will never leave. */
static void reset_handles(void)
{
    for (struct ss_handle *handle = segment->handles; handle != NULL; handle = handle->next)
        atomic_store(&handle->state, atomic_load(&handle->state) & HANDLE_CLOSED);
}

static void to_the_beginning(void)
{
    forget_waits();
    forget_registrations();
    memcpy(segment->base, snapshot, (size_t)segment->geometry.size);
    eventfd_restore();
    renew_objects();
    reset_handles();
}

/* Registration is a dozen steps behind the gate, and multiplies the schedules of what comes after. */
static void register_threads(void)
{
    struct registration *self;

    free_running = true;
    for (uint32_t i = 0; i < thread_count; i++) {
        running = i + 1;
        if (owner_register(segment, &self) < 0)
            abort();
    }
    running = 0;
    free_running = false;
}

/* Somebody comes by when all is over, of whom the program knows nothing: he takes the gate, which recovers from a
 * death in it, and buries the dead. Whom that wakes does not go on: who has to be woken by chance sleeps too long. */
int sched_visit(void)
{
    struct thread *visitor = &threads[STEP_THREADS_MAX]; /* one more than programs can have */
    int rc;

    free_running = true;
    running = STEP_THREADS_MAX + 1;
    visitor->held_count = 0;
    rc = gate_lock(segment);
    if (rc == 0) {
        owner_reap_threads(segment);
        gate_unlock(segment);
    }
    running = 0;
    free_running = false;
    device_settle();
    for (uint32_t t = 0; t < thread_count && rc >= 0; t++)
        rc += threads[t].state == SCHED_SLEEPING && threads[t].woken != INT_MIN;
    return rc;
}

/* Back to the beginning of the program: every thread before its first step. */
void sched_restart(void)
{
    to_the_beginning();
    mutex_count = event_count = 0;
    for (uint32_t i = 0; i < thread_count; i++) {
        struct thread *thread = &threads[i];

        thread->state = SCHED_READY;
        thread->started = thread->begun = thread->late = thread->sliced = false;
        thread->site = NULL;
        thread->held_count = thread->op = 0;
        memset(thread->results, 0, sizeof thread->results);
        getcontext(&thread->entry);
        thread->entry.uc_stack.ss_sp = thread->stack;
        thread->entry.uc_stack.ss_size = STACK_BYTES;
        thread->entry.uc_link = NULL;
        makecontext(&thread->entry, coroutine, 0);
    }
    if (register_first)
        register_threads();
    for (uint32_t i = 0; i < thread_count; i++)
        resume(i);
}

/* Leaves the segment as it was before the program. */
void sched_end(void)
{
    to_the_beginning();
    free(snapshot);
    snapshot = NULL;
    thread_count = 0;
}

/* ---- how it ended ---- */

static uint64_t mix(uint64_t digest, const void *data, size_t size)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < size; i++)
        digest = (digest ^ bytes[i]) * 1099511628211ull; /* FNV-1a */
    return digest;
}

static uint64_t mix_queue(uint64_t digest, const struct queue *queue)
{
    uint32_t link = queue->first.word_;

    for (uint32_t steps = 0; link != 0 && steps < 100; steps++) {
        digest = mix(digest, &link, sizeof link);
        link = segment_thread(segment, (link - 1) / (SS_WAIT_MAX + 1))->next[(link - 1) % (SS_WAIT_MAX + 1)].word_;
    }
    return mix(digest, &queue->last, sizeof queue->last);
}

/* The state of the protocol of handoff, and both halves of esync's objects. Fsync has neither: how its threads have
 * left their slots makes no difference to what comes. */
static uint64_t mix_protocol(uint64_t digest)
{
    const struct control *control = segment_control(segment);
    uint32_t threads_end = control->threads_fresh.word_;
    uint32_t objects_end = control->objects_fresh.word_;

    for (uint32_t i = 0; segment->engine->id == SS_ENGINE_ESYNC && i < objects_end; i++) {
        uint64_t counter = sched_counter(i);
        uint32_t words[2];

        sched_words(i, words);
        digest = mix(mix(digest, words, sizeof words), &counter, sizeof counter);
    }
    if (segment->engine->id != SS_ENGINE_HANDOFF)
        return digest;
    digest = mix(digest, &control->pulsing, sizeof control->pulsing);
    digest = mix(digest, &control->undo_length, sizeof control->undo_length);
    for (uint32_t i = 0; i < threads_end && i < segment->geometry.threads; i++) {
        const struct thread_slot *slot = segment_thread(segment, i);

        digest = mix(digest, &slot->state, sizeof slot->state);
        digest = mix(digest, &slot->wait_kind, sizeof slot->wait_kind);
    }
    for (uint32_t i = 0; i < objects_end && i < segment->geometry.capacity; i++) {
        digest = mix(digest, &segment_object(segment, i)->word, 8);
        digest = mix_queue(digest, &segment_object(segment, i)->any);
        digest = mix_queue(digest, &segment_object(segment, i)->all);
    }
    return digest;
}

uint64_t sched_digest(void)
{
    uint64_t digest = 14695981039346656037ull;
    uint32_t end = segment_control(segment)->objects_fresh.word_;

    digest = mix(digest, events, event_count * sizeof events[0]);
    for (uint32_t i = 0; i < thread_count; i++) {
        digest = mix(digest, &threads[i].state, sizeof threads[i].state);
        digest = mix(digest, &threads[i].op, sizeof threads[i].op);
        digest = mix(digest, threads[i].results, threads[i].op_count * sizeof threads[i].results[0]);
    }
    for (uint32_t i = 0; i < end && i < segment->geometry.capacity; i++) {
        struct ss_state state;

        sched_state(i, &state);
        digest = mix(digest, &state, sizeof state);
    }
    return mix_protocol(digest);
}
