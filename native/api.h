/* Everything that Python may call or read. No preprocessor lines: cffi reads this file as it is, and every C
 * file includes it. Functions that can fail return a negative errno; what each errno means to a user is in
 * shmsync/errors.py. Whatever may have to wait comes back with -EINTR when a signal has come, or when the segment's
 * lock could not be had in 50 ms: "let signal handlers run, then call again with the same arguments".
 */

enum ss_engine {
    SS_ENGINE_ANY = 0,
    SS_ENGINE_FSYNC = 1,
    SS_ENGINE_HANDOFF = 2,
    SS_ENGINE_ESYNC = 3,
    SS_ENGINE_NTSYNC = 4
};

enum ss_kind { SS_FREE = 0, SS_SEMAPHORE = 1, SS_MUTEX = 2, SS_AUTO_EVENT = 3, SS_MANUAL_EVENT = 4 };

/* Why a segment was refused, beside the errno. */
enum ss_why {
    SS_WHY_NONE = 0,
    SS_WHY_NOT_A_FILE,      /* a FIFO, a directory, a device */
    SS_WHY_FOREIGN,         /* no shmsync segment at all */
    SS_WHY_VERSION,         /* another format version, in use */
    SS_WHY_ABI,             /* another pointer size or C library */
    SS_WHY_DAMAGED,         /* sizes that do not fit together */
    SS_WHY_OTHER_USER,      /* owned by another user, and mode= grants nobody else anything */
    SS_WHY_PID_NAMESPACE,   /* created in another pid namespace */
    SS_WHY_ENGINE,          /* another engine than asked for */
    SS_WHY_UNUSABLE,        /* this machine lacks what the engine needs */
    SS_WHY_NO_ENGINE,       /* this build does not know the segment's engine */
    SS_WHY_PROCESSES,       /* every process slot is taken */
    SS_WHY_NO_SPACE,        /* /dev/shm is full */
    SS_WHY_NOT_PERSISTENT   /* what the engine's objects are goes with their last process */
};

/* An object's state, in NT's terms. Fields that its kind lacks are 0. */
struct ss_state {
    uint32_t kind;          /* enum ss_kind */
    uint32_t count;         /* semaphore: tokens; mutex: recursion count */
    uint32_t maximum;       /* semaphore */
    uint32_t owner;         /* mutex: owner id, 0 if free */
    uint32_t abandoned;     /* mutex: its last owner died owning it, and nobody has acquired it since */
    uint32_t signaled;      /* event */
};

/* ---- namespaces (segment.c) ---- */

struct ss_namespace;        /* this process's mapping of one segment */

enum { SS_CREATE = 1, SS_EXCLUSIVE = 2, SS_PERSISTENT = 4, SS_BY_SLOT = 8 };

struct ss_attach {
    int fd;                 /* in: opened read-write; the caller keeps and closes it */
    const char *shm_name;   /* in: what shm_open was given, "/shmsync-..." */
    uint32_t engine;        /* in: enum ss_engine that the segment must have, or SS_ENGINE_ANY */
    uint32_t new_engine;    /* in: enum ss_engine of a new segment */
    uint32_t capacity;      /* in: objects, for a new segment */
    uint32_t threads;       /* in: threads, for a new segment */
    uint32_t mode;          /* in: permission bits, for a new segment, and what the caller accepts */
    uint32_t flags;         /* in: SS_CREATE, SS_EXCLUSIVE, SS_PERSISTENT */
    struct ss_namespace *ns;/* out, on success */
    uint32_t created;       /* out: this call formatted the segment */
    uint32_t why;           /* out, on failure: enum ss_why */
    uint32_t found_engine;  /* out: of the segment */
    uint32_t found_version; /* out */
    uint64_t found;         /* out: uid, pid namespace or abi that was found, as `why` says */
};

int ss_attach(struct ss_attach *request);
int ss_detach(struct ss_namespace *ns);
int ss_unlink(int fd, const char *shm_name, uint32_t only_if_unused);
int ss_in_use(int fd);
void ss_exit(void);
uint32_t ss_namespace_engine(const struct ss_namespace *ns);
uint64_t ss_namespace_instance(const struct ss_namespace *ns);
int ss_engine_probe(uint32_t engine);

/* ---- handles (handle.c) ---- */

struct ss_handle;           /* this process's reference to an object */

struct ss_open {
    struct ss_namespace *ns;/* in */
    const char *name;       /* in: UTF-8, not terminated; NULL: anonymous */
    uint32_t name_length;   /* in */
    uint32_t flags;         /* in: SS_CREATE, SS_EXCLUSIVE, or SS_BY_SLOT */
    struct ss_state initial;/* in: of a new object; kind SS_FREE opens any */
    uint32_t owned;         /* in: a new mutex is the calling thread's */
    uint32_t barging;       /* in: a new mutex need not be fair */
    uint32_t index;         /* in with SS_BY_SLOT, out */
    uint32_t generation;    /* in with SS_BY_SLOT, out */
    struct ss_handle *handle; /* out */
    uint32_t created;       /* out: this call made the object */
    uint32_t kind;          /* out: what it is, also when the kind was wrong */
    uint32_t fetch;         /* out: its descriptor is to be had from the broker, for ss_descriptor_adopt */
};

int ss_open(struct ss_open *request);
/* For a caller that is interrupted after ss_open: closes what it opened, unless that was adopted. */
int ss_open_undo(struct ss_open *request);
int ss_close(struct ss_handle *handle);
void ss_handle_free(struct ss_handle *handle);

/* Each returns the previous state (count, recursion count or signaled), or a negative errno. */
int64_t ss_semaphore_release(struct ss_handle *handle, uint32_t count);
int64_t ss_mutex_release(struct ss_handle *handle);
int64_t ss_event_set(struct ss_handle *handle);
int64_t ss_event_reset(struct ss_handle *handle);
int64_t ss_event_pulse(struct ss_handle *handle);
int ss_read(struct ss_handle *handle, struct ss_state *state);

/* ---- descriptors and the broker (descriptor.c, segment.c), for engines whose objects are file descriptors ---- */

/* Who opens such a namespace joins its broker before he opens objects, and starts it if there is none. */
uint32_t ss_needs_broker(const struct ss_namespace *ns);  /* and is not joined yet */
int ss_broker_state(const struct ss_namespace *ns);       /* 1 one serves, 0 none, -ENOTRECOVERABLE: it was killed */
int ss_broker_segment(const struct ss_namespace *ns);     /* a descriptor of the segment, for the broker; -errno */
/* Takes over both descriptors; `device` may be -1. */
void ss_broker_joined(struct ss_namespace *ns, int connection, int device);
void ss_broker_lost(struct ss_namespace *ns);             /* every call says so from now on */
void ss_descriptor_adopt(struct ss_handle *handle, int fd); /* takes it over */

/* The broker's own side. */
int ss_serve(int fd, struct ss_namespace **ns);           /* takes over the descriptor, if it succeeds */
int ss_serve_device(const struct ss_namespace *ns);       /* what clients need beside the objects' own; -1: nothing */
int ss_serve_descriptor(struct ss_namespace *ns, uint32_t index, uint32_t generation); /* not to be closed */
int ss_serve_round(struct ss_namespace *ns);              /* looks after the dead; 0: nobody lives here any more */
void ss_serve_end(struct ss_namespace *ns);

/* ---- waiting (handle.c, then the engine) ---- */

/* One wait. All fields but the arguments are 0 at first. After -EINTR the same request is passed again, to go on,
 * or to ss_wait_undo, to give up: until then the objects stay, whoever closes their handles. `taken` is stored
 * before the call returns, so that a caller that is interrupted between the return and its next instruction can
 * still give back what the wait took. */
struct ss_wait {
    struct ss_handle *handles[64]; /* in */
    uint32_t count;         /* in: 1 ... 64 */
    uint32_t all;           /* in: wait for all, at one instant */
    struct ss_handle *alert;/* in: an event, or NULL */
    struct ss_handle *signal; /* in: signaled once before waiting, then set to NULL here; or NULL */
    uint64_t deadline_ns;   /* in: CLOCK_MONOTONIC; 0 polls; UINT64_MAX never comes */
    uint32_t index;         /* out: which, or `count` for the alert; 0 for a wait-all */
    uint32_t taken;         /* out: not 0: the wait succeeded and its objects are taken */
    uint64_t abandoned;     /* out: bit i: objects[i] was an abandoned mutex */
    uint32_t under_way;     /* private: -EINTR was returned */
    uint64_t stuck_since_ns;/* private: since when the segment's lock could not be had */
    uint64_t barges_until_ns; /* private: of a mutex that need not be fair */
};

int ss_wait(struct ss_wait *wait);
int ss_wait_undo(struct ss_wait *wait);

/* The address of the functions that shmsync._fast calls (fast.h). */
uint64_t ss_fast_table(void);

/* ---- the NT rules (object.c), for engines, and for tests to compare with a model ---- */

int ss_object_check(const struct ss_state *initial);
int ss_object_is_signaled(const struct ss_state *object, uint32_t owner);
int ss_object_take(struct ss_state *object, uint32_t owner);
int64_t ss_object_semaphore_release(struct ss_state *object, uint32_t count);
int64_t ss_object_mutex_unlock(struct ss_state *object, uint32_t owner);
int64_t ss_object_mutex_kill(struct ss_state *object, uint32_t owner);
int64_t ss_object_event_set(struct ss_state *object);
int64_t ss_object_event_reset(struct ss_state *object);

/* ---- looking without touching (peek.c): no lock, no write; what is seen may be in motion ---- */

struct ss_peek;             /* a read-only mapping of a segment */

struct ss_peek_header {
    uint32_t version;
    uint32_t engine;
    uint32_t persistent;
    uint32_t capacity;
    uint32_t threads;
    uint64_t size;
    uint64_t created_ns;    /* CLOCK_REALTIME */
    uint64_t instance;
    uint64_t pid_namespace;
    uint32_t objects_end;   /* slots at and above were never used */
    uint32_t threads_end;
    uint32_t processes_end;
    uint32_t undo_length;   /* not 0: a transaction is under way, or its process died in it */
    uint32_t gate_tid;      /* thread that holds the gate, 0: none */
    uint32_t server_tid;    /* thread that sweeps, 0: none */
};

struct ss_peek_object {
    struct ss_state state;  /* kind SS_FREE: not in use, the rest is 0 */
    uint32_t generation;
    uint32_t users;         /* processes that have it open */
    uint32_t waiters;       /* threads that wait on it */
    uint32_t in_motion;     /* a change is under way, or its process died in it: the state may yet be another */
    uint32_t owner_slot;    /* mutex with an owner: its thread slot, else 0xffffffff */
    uint32_t name_length;
    char name[200];
};

struct ss_peek_thread {
    uint32_t used;
    uint32_t owner_id;
    uint32_t process;       /* process slot */
    uint32_t tid;
    uint32_t wait_kind;     /* 0 none, 1 any, 2 all */
    uint32_t wait_count;
    uint32_t waits[65];     /* object indexes */
};

struct ss_peek_process {
    uint32_t used;
    uint32_t alive;
    uint32_t pid;
    uint32_t open_objects;
    uint64_t start_time;    /* clock ticks since boot */
};

int ss_peek_open(int fd, struct ss_peek **peek, uint32_t *why);
void ss_peek_close(struct ss_peek *peek);
void ss_peek_header(const struct ss_peek *peek, struct ss_peek_header *out);
int ss_peek_object(const struct ss_peek *peek, uint32_t index, struct ss_peek_object *out);
int ss_peek_thread(const struct ss_peek *peek, uint32_t slot, struct ss_peek_thread *out);
int ss_peek_process(const struct ss_peek *peek, uint32_t slot, struct ss_peek_process *out);

/* ---- the format, for tests/test_layout.py ---- */

struct ss_layout_field {
    const char *structure;
    const char *field;      /* NULL: the size of the whole struct */
    uint32_t offset;        /* or that size */
    uint32_t size;
};

int ss_layout_field(uint32_t number, struct ss_layout_field *out);
uint64_t ss_layout_size(uint32_t capacity, uint32_t threads);
