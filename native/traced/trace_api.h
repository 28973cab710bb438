/* What the traced module offers beside api.h. No preprocessor lines: cffi reads this file as it is. */

/* ---- steps of real threads and processes (step.c) ---- */

struct step_view {
    uint32_t op;             /* enum step_op */
    uint32_t thread;         /* number under a scheduler, from 0; 0xffffffff outside */
    uint32_t kind;           /* enum sched_kind */
    int line;
    const char *file;
    const char *text;        /* the word as the source calls it */
    const char *op_name;
    uint64_t address;
    uint64_t old;            /* before; of a sleep: what was expected; of a poll: how many counters */
    uint64_t now;            /* after; of a poll: how many of them can be read */
    int64_t result;          /* of a compare-and-swap: 1 if it swapped; of the others what they returned; of a poll
                              * that sleeps now: -EAGAIN */
};

/* Steps are counted from 0 for each process. The process kills itself before step `number`. */
void step_kill_before(uint64_t number);
void step_stop_before(uint64_t number); /* by SIGSTOP */
void step_count_from_0(void);
uint64_t step_count(void);
void step_record(uint32_t on);
uint32_t step_recorded(void);
int step_get(uint32_t number, struct step_view *out);
/* What an address in a segment is called, e.g. "object 3 word0"; the length, or -EINVAL. */
int step_name(const struct ss_namespace *ns, uint64_t address, char *out, uint32_t size);

/* ---- the scheduler: threads of a program, one step at a time (scheduler.c) ---- */

enum sched_kind {
    SCHED_STEP = 0,
    SCHED_TIMEOUT = 1,       /* the deadline of the thread's call comes while it sleeps */
    SCHED_KILL = 2,
    SCHED_RELOOK = 3,        /* a sleep that is shorter than the call may last ends, and nothing has happened */
    SCHED_SLICE = 4          /* a lock that is held could not be had for as long as the thread would wait for it */
};

enum sched_call {
    CALL_WAIT = 1,
    CALL_SEMAPHORE_RELEASE,
    CALL_MUTEX_RELEASE,
    CALL_EVENT_SET,
    CALL_EVENT_RESET,
    CALL_EVENT_PULSE,
    CALL_READ,
    CALL_SWEEP,              /* one round of the sweeper */
    CALL_ABANDON,            /* the mutex's owner is declared dead, whether he is or not */
    CALL_EXIT                /* the thread ends */
};

struct sched_op {
    uint32_t call;           /* enum sched_call */
    uint32_t all;
    uint32_t count;
    uint32_t amount;
    struct ss_handle *handles[8];
    struct ss_handle *alert;
    struct ss_handle *signal;
    uint64_t deadline_ns;    /* 0 polls, UINT64_MAX never comes, any other may come at any time */
};

struct sched_result {
    int64_t code;            /* what the call returned */
    uint32_t index;
    uint32_t finished;
    uint64_t abandoned;
    struct ss_state state;   /* of CALL_READ */
};

enum sched_state {
    SCHED_READY = 0,         /* about to take a step */
    SCHED_SLEEPING,          /* in a futex wait */
    SCHED_BLOCKED,           /* about to lock a mutex that is held */
    SCHED_DONE,              /* its program is over; the thread lives on, idle */
    SCHED_ENDED,             /* it has ended (CALL_EXIT) */
    SCHED_DEAD               /* killed */
};

struct sched_thread_view {
    uint32_t state;          /* enum sched_state */
    uint32_t op;             /* which of its calls it is in */
    uint32_t may_time_out;   /* sleeping, in a call whose deadline can come */
    uint32_t may_look_again; /* sleeping for a shorter time than the call may last */
    uint32_t pending_op;     /* enum step_op of the step it is about to take */
    int pending_line;
    const char *pending_file;
    const char *pending_text;
    const char *pending_op_name;
    uint64_t pending_address;
};

/* Of a program's history: a call begins, has gone to sleep for the first time, has returned; its thread dies. */
enum sched_event_kind { EVENT_BEGINS = 0, EVENT_RETURNS = 1, EVENT_SLEEPS = 2, EVENT_DIES = 3 };

struct sched_event {
    uint32_t thread;
    uint32_t op;
    uint32_t kind;           /* enum sched_event_kind */
};

/* `registered`: the threads are registered before the program begins, not by its first calls. */
int sched_begin(struct ss_namespace *ns, uint32_t threads, uint32_t registered);
/* From the next start on: a call begins and returns in steps of their own, so that what came before what in the history
 * of calls is explored too. */
void sched_history(uint32_t on);
int sched_program(uint32_t thread, const struct sched_op *ops, uint32_t count);
void sched_restart(void);
int sched_grant(uint32_t thread, uint32_t kind);
int sched_can(uint32_t thread, uint32_t kind);
int sched_thread(uint32_t thread, struct sched_thread_view *out);
int sched_result(uint32_t thread, uint32_t op, struct sched_result *out);
/* The two words of an object, its state as the engine reads them (kind SS_FREE: there is no such object), and the
 * owner id of a registered thread (0: it is not registered). */
void sched_words(uint32_t index, uint32_t words[2]);
/* The counter behind an object's descriptor; UINT64_MAX, which no counter reaches: it has none. */
uint64_t sched_counter(uint32_t index);
void sched_state(uint32_t index, struct ss_state *out);
uint32_t sched_owner_id(uint32_t thread);
uint32_t sched_events(void);
int sched_event(uint32_t number, struct sched_event *out);
/* When the program is over: recovers and reaps, as the next one who comes does. How many sleepers that has woken,
 * who would have slept on without; -errno if the gate cannot be had. */
int sched_visit(void);
void sched_end(void);

/* ---- the explorer: all schedules of a program (explore.c) ---- */

enum explore_method { EXPLORE_REDUCED = 0, EXPLORE_BOUNDED = 1, EXPLORE_RANDOM = 2 };

struct explore_config {
    uint32_t method;         /* enum explore_method */
    uint32_t kills;          /* threads that may be killed in one schedule */
    uint32_t killable;       /* bit mask of the threads that may be */
    uint32_t preemptions;    /* EXPLORE_BOUNDED: at most so many */
    uint64_t schedules_max;  /* stop after so many */
    uint64_t seed;           /* EXPLORE_RANDOM */
    uint32_t steps_max;      /* a schedule of more steps counts as endless */
    uint32_t slices;         /* how often in one schedule a thread may give up waiting for a lock */
    uint32_t relooks;        /* how often a thread may look again after each death; before the first it may not */
};

struct explore_result {
    uint64_t schedules;      /* complete ones that were run */
    uint64_t cut;            /* begun, and found to repeat others (sleep sets) */
    uint64_t steps;
    uint32_t outcomes;       /* different ones */
    uint32_t exhausted;      /* nothing is left to run */
    uint32_t longest;        /* steps of the longest schedule */
};

/* One way for the program to end, and a schedule that leads there. */
struct explore_outcome {
    uint64_t count;          /* schedules that ended like this */
    uint32_t steps;
    uint32_t endless;        /* cut off after steps_max */
    const uint16_t *schedule;/* `steps` elements: kind << 8 | thread */
};

int explore(const struct explore_config *config, struct explore_result *result);
int explore_outcome(uint32_t number, struct explore_outcome *out);
