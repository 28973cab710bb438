/* The format of a segment. This header is its specification; nothing else defines it.
 *
 * A segment is one file, /dev/shm/shmsync-<name>, mapped by every process that uses the namespace. All
 * numbers are in the machine's own byte order and size; `abi` in the header refuses another.
 *
 *     header                    one, 128 bytes, written once by the creator, read-only afterwards but for
 *                               pid_namespace, which moves when nobody lives in a persistent segment
 *     control                   one: the gate, the server lock, free lists, the undo log
 *     process slots             `threads` of them: a process that uses the segment
 *     open sets                 one bit per object for each process slot: who has what open
 *     thread slots              `threads` of them: a registered thread
 *     buckets                   heads of the directory's chains, a power of two >= capacity
 *     objects                   `capacity` slots of 64 bytes
 *     names                     `capacity` strings of 200 bytes, by object index, not terminated
 *
 * Where each part begins follows from `capacity` and `threads` alone (geometry_of). A process computes it
 * once, when it attaches, and never again reads a size or an offset from the segment.
 *
 * Offsets, in bytes, as the compiler laid them out (tests/test_layout.py compares this table with it):
 *
 *     struct            field           offset  size  changed by, holding
 *     header            magic                0     8  creator, byte 0; stored last
 *     header            version              8     4  creator, byte 0
 *     header            abi                 12     4  creator, byte 0
 *     header            engine              16     4  creator, byte 0
 *     header            flags               20     4  creator, byte 0
 *     header            capacity            24     4  creator, byte 0
 *     header            threads             28     4  creator, byte 0
 *     header            size                32     8  creator, byte 0
 *     header            created_ns          40     8  creator, byte 0
 *     header            instance            48     8  creator, byte 0
 *     header            pid_namespace       56     8  creator, or who finds it empty, byte 0
 *     header            boot_id             64    16  creator, byte 0
 *     header                               128        (size of the struct)
 *     control           gate                 0    64  lock, unlock
 *     control           server              64    64  sweepers or broker: lock, unlock
 *     control           objects_fresh      128     4  gate, undo log
 *     control           objects_free       132     4  gate, undo log
 *     control           threads_fresh      136     4  gate, undo log
 *     control           processes_fresh    140     4  gate, undo log
 *     control           undo_length        144     4  gate
 *     control           pulsing            148     4  gate, undo log
 *     control           undo               192  4096  gate
 *     control                             4288        (size of the struct)
 *     undo_entry        where                0     8  gate
 *     undo_entry        old                  8     8  gate
 *     undo_entry                            16        (size of the struct)
 *     process_slot      state                0     4  gate, undo log
 *     process_slot      pid                  4     4  the process itself, after it has the slot
 *     process_slot      start_time           8     8  the process itself, after it has the slot
 *     process_slot                          16        (size of the struct)
 *     thread_slot       liveness             0    64  the thread: locked while it lives
 *     thread_slot       state               64     4  gate, undo log
 *     thread_slot       generation          68     4  gate, undo log
 *     thread_slot       process             72     4  gate, undo log
 *     thread_slot       tid                 76     4  gate, undo log
 *     thread_slot       wait_kind           80     4  fsync: the thread itself; handoff: gate, undo log
 *     thread_slot       wait_count          84     4  fsync: the thread itself; handoff: gate, undo log
 *     thread_slot       wait_alert          88     4  gate, undo log
 *     thread_slot       word                92     4  see engine_handoff.c
 *     thread_slot       abandoned           96     8  gate, undo log
 *     thread_slot       result             104     4  gate, undo log
 *     thread_slot       waits              108   260  the thread itself, while it is in no queue
 *     thread_slot       next               368   260  gate, undo log
 *     thread_slot       previous           628   260  gate, undo log
 *     thread_slot                          896        (size of the struct)
 *     object            word0                0     4  the engine
 *     object            word1                4     4  the engine
 *     object            kind                 8     4  gate, undo log
 *     object            generation          12     4  gate, undo log
 *     object            users               16     4  gate, undo log
 *     object            next                20     4  gate, undo log
 *     object            hash                24     4  gate, undo log
 *     object            name_length         28     4  gate, undo log
 *     object            any                 32     8  gate, undo log
 *     object            all                 40     8  gate, undo log
 *     object            maximum             48     4  creator, gate
 *     object            barging             52     4  creator, gate
 *     object            bargers             56     4  see engine_handoff.c
 *     object                                64        (size of the struct)
 *
 * Bytes that no field covers are padding, zero. So is a fresh file: links (`objects_free`, `next`, buckets) hold
 * index + 1, and 0 ends a chain. The header's fields up to `flags` keep their places in every version.
 *
 * Byte-range locks on the file (open file description locks; the kernel drops them with their holder, and
 * the bytes need not exist):
 *
 *     byte 0            exclusive while creating, attaching, leaving and unlinking
 *     byte 1            shared for as long as a process uses the segment: the sign of life that every version
 *                       of the format keeps
 *     byte 64 + n       exclusive, held by the process in process slot n for as long as it has the slot
 *
 * Creation: whoever opens takes byte 0; if it then gets byte 1 exclusively, nobody lives in the segment, and
 * unless that is a valid persistent one it makes a new one: it unlinks what is there and formats an empty file.
 * The magic word is stored last, so a creator that was killed half way leaves what the next one does not take
 * for a segment.
 *
 * Order of locks, outermost first: byte 0, the process's own registry lock (segment.c), the gate. The server
 * lock is taken before the gate. A liveness mutex is only tried, never waited for, and only under the gate.
 */
#ifndef SS_LAYOUT_H
#define SS_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "atomic.h"
#include "robust.h"

/* ---- limits ------------------------------------------------------------------------------------------- */

#define SS_NAME_MAX 200               /* bytes of a name */
#define SS_WAIT_MAX 64                /* objects in one wait; an alert may come on top */
#define SS_CAPACITY_MAX (1u << 24)    /* objects in a segment */
#define SS_THREADS_MAX 0xffffu        /* threads (and processes) in a segment */
#define SS_COUNT_MAX 0x7fffffffu      /* a semaphore's maximum, as NT's LONG */
#define SS_UNDO_MAX 256               /* writes in one transaction */
#define SS_NONE 0xffffffffu           /* no index */

/* ---- identity ----------------------------------------------------------------------------------------- */

#define SS_MAGIC 0x31434e59534d4853ull /* "SHMSYNC1" */
#define SS_VERSION 3u
/* What must agree between two builds that map one segment: pointer size and the C library's mutex. */
#define SS_ABI ((uint32_t)(sizeof(void *) << 16 | sizeof(pthread_mutex_t)))

#define SS_LOCK_CREATE 0
#define SS_LOCK_USE 1
#define SS_LOCK_PROCESS 64

enum { SS_HEADER_PERSISTENT = 1 };

struct header {
    shared64 magic;
    uint32_t version;
    uint32_t abi;
    uint32_t engine;        /* enum ss_engine */
    uint32_t flags;         /* SS_HEADER_... */
    uint32_t capacity;
    uint32_t threads;
    uint64_t size;          /* of the whole file */
    uint64_t created_ns;    /* CLOCK_REALTIME, to show */
    uint64_t instance;      /* random: tells this segment from a later one of the same name */
    uint64_t pid_namespace; /* inode of the creator's: the kernel compares thread ids as numbers in it */
    uint8_t boot_id[16];    /* with pid and start time, the identity of a process */
    uint8_t padding[48];
};

/* ---- control ------------------------------------------------------------------------------------------ */

/* Undo log: `undo_length` entries are valid. An entry is complete before the length covers it, and the length
 * covers it before the word changes; length 0 is the commit (gate.c). */
struct undo_entry {
    shared64 where; /* offset of the word from the beginning of the segment, + 1 for a 64-bit word */
    shared64 old;
};

struct control {
    robust_mutex gate;        /* protects everything marked "gate" */
    robust_mutex server;      /* held by the one sweeper that sweeps, or by the broker */
    shared32 objects_fresh;   /* slots from here on were never used */
    shared32 objects_free;    /* link to the freed slots, chained through `next` */
    shared32 threads_fresh;   /* slots from here on were never used */
    shared32 processes_fresh; /* slots from here on were never used */
    shared32 undo_length;
    shared32 pulsing;         /* link to the event that is being pulsed (engine_handoff.c) */
    uint8_t padding[40];
    struct undo_entry undo[SS_UNDO_MAX];
};

/* ---- processes and threads ---------------------------------------------------------------------------- */

/* SS_SLOT_DEAD, threads only: known to be dead, in no queue any more; its mutexes are still to be abandoned. */
enum { SS_SLOT_FREE = 0, SS_SLOT_USED = 1, SS_SLOT_DEAD = 2 };

/* Alive while byte 64 + n is locked. pid 0: a child that fork() has not finished yet. */
struct process_slot {
    shared32 state;
    shared32 pid;
    shared64 start_time; /* clock ticks since boot, /proc/PID/stat field 22 */
};

enum { SS_WAIT_NONE = 0, SS_WAIT_ANY = 1, SS_WAIT_ALL = 2 };

/* A used slot whose liveness mutex can be locked belongs to a dead thread, and whoever locked it (under the
 * gate) reaps it. The owner id of the thread is slot + generation (owner.h).
 *
 * wait_kind, wait_count and waits say what the thread sleeps on; an alert is the last of `waits`.
 *
 * fsync: for inspection and tests only. They are published before the sleep and withdrawn after it, so they may
 * say "waits" of a thread that is about to sleep or has just woken, never "does not wait" of one that sleeps.
 *
 * handoff: they are the thread's entries in the queues of the objects, and exact whenever nobody is in the gate, but
 * for a thread that has gone away without it (GONE in `word`).
 * Entry i stands for waits[i] and is linked by next[i] and previous[i]. */
struct thread_slot {
    robust_mutex liveness;
    shared32 state;
    shared32 generation; /* 1 ... SS_GENERATION_MAX */
    shared32 process;    /* process slot */
    shared32 tid;        /* to show */
    shared32 wait_kind;
    shared32 wait_count; /* valid elements of `waits` */
    shared32 wait_alert; /* 1: the last of them is an alert */
    shared32 word;       /* what the thread sleeps on: number of its wait, and its result */
    shared64 abandoned;  /* with the result: bit i: waits[i] was an abandoned mutex */
    shared32 result;     /* as `word` will show it once it is published; 0: none since the last wait began */
    shared32 waits[SS_WAIT_MAX + 1];    /* object indexes */
    shared32 next[SS_WAIT_MAX + 1];     /* links in the queues: slot * (SS_WAIT_MAX + 1) + entry + 1, or 0 */
    shared32 previous[SS_WAIT_MAX + 1];
    uint8_t padding[8];
};

/* ---- objects ------------------------------------------------------------------------------------------ */

/* Threads that wait on an object, in the order of their arrival. Links as in thread_slot.next. */
struct queue {
    shared32 first;
    shared32 last;
};

/* Kinds are enum ss_kind. What the first two words mean is the engine's business:
 *
 *     fsync             word0                                  word1
 *     semaphore         count                                  maximum
 *     mutex             owner id; 0 free; ~0 abandoned         recursion count
 *     event             signaled                               unused
 *
 *     esync: beside an eventfd
 *     semaphore         maximum                                count
 *     mutex             owner id; 0 free; ~0 abandoned         recursion count
 *     event             signaled                               spin lock, if manual
 *
 *     ntsync            what the object was made of; the kernel has the rest (engine_ntsync.c)
 *
 *     handoff           both, as one word of 64 bits: count or signaled in the low half, owner id and three
 *                       flags in the high half (engine_handoff.c)
 */
struct object {
    union {
        struct {
            shared32 word0;
            shared32 word1;
        };
        shared64 word;
    };
    shared32 kind;        /* SS_FREE while the slot is on the free list */
    shared32 generation;  /* goes up when the slot is freed */
    shared32 users;       /* processes that have it open = bits in the open sets */
    shared32 next;        /* link: free list, or chain of a bucket */
    shared32 hash;        /* of the name */
    shared32 name_length; /* 0: anonymous, in no chain */
    struct queue any;     /* who waits for this object or another, and whose alert it is */
    struct queue all;     /* who waits for this object and others */
    shared32 maximum;     /* handoff: of a semaphore; r/o once it is made */
    shared32 barging;     /* handoff: of a mutex: it need not be fair; r/o once it is made */
    shared32 bargers;     /* handoff: of such a mutex: futex word (engine_handoff.c) */
    uint8_t padding[4];
};

/* ---- the drawing, checked ----------------------------------------------------------------------------- */

static_assert(sizeof(robust_mutex) == 64, "a mutex fills a cache line");
static_assert(sizeof(struct header) == 128, "header");
static_assert(sizeof(struct undo_entry) == 16, "undo_entry");
static_assert(offsetof(struct control, undo) == 192, "control");
static_assert(sizeof(struct control) == 192 + 16 * SS_UNDO_MAX, "control");
static_assert(sizeof(struct process_slot) == 16, "process_slot");
static_assert(offsetof(struct thread_slot, waits) == 108, "thread_slot");
static_assert(sizeof(struct thread_slot) == 896, "thread_slot");
static_assert(sizeof(struct object) == 64, "object");

/* ---- where the parts begin ---------------------------------------------------------------------------- */

struct geometry {
    uint32_t capacity;
    uint32_t threads;
    uint32_t buckets;        /* power of two */
    uint32_t set_words;      /* 64-bit words of one open set */
    uint64_t processes_at;
    uint64_t open_sets_at;
    uint64_t threads_at;
    uint64_t buckets_at;
    uint64_t objects_at;
    uint64_t names_at;
    uint64_t size;
};

static inline uint64_t geometry_align_(uint64_t offset)
{
    return (offset + 63) & ~63ull;
}

/* Both arguments within their limits. */
static inline struct geometry geometry_of(uint32_t capacity, uint32_t threads)
{
    struct geometry g = {.capacity = capacity, .threads = threads, .buckets = 1};

    while (g.buckets < capacity)
        g.buckets *= 2;
    g.set_words = (capacity + 63) / 64;
    g.processes_at = sizeof(struct header) + sizeof(struct control);
    g.open_sets_at = geometry_align_(g.processes_at + (uint64_t)threads * sizeof(struct process_slot));
    g.threads_at = geometry_align_(g.open_sets_at + (uint64_t)threads * g.set_words * 8);
    g.buckets_at = geometry_align_(g.threads_at + (uint64_t)threads * sizeof(struct thread_slot));
    g.objects_at = geometry_align_(g.buckets_at + (uint64_t)g.buckets * 4);
    g.names_at = geometry_align_(g.objects_at + (uint64_t)capacity * sizeof(struct object));
    g.size = geometry_align_(g.names_at + (uint64_t)capacity * SS_NAME_MAX);
    return g;
}

#endif
