/* Who owns and who lives: thread slots, process slots, and the reaping of dead ones. */
#ifndef SS_OWNER_H
#define SS_OWNER_H

#include "segment.h"

/* An owner id is 29 bits: generation << 16 | slot. Never 0 (the generation is at least 1), never ~0. Unlike a
 * thread id of the kernel it is not given to another thread until its slot was reaped and 8,191 threads came
 * and went in that slot. */
#define SS_OWNER_SLOT_BITS 16
#define SS_GENERATION_MAX 0x1fffu

static inline uint32_t owner_id(uint32_t slot, uint32_t generation)
{
    return (generation & SS_GENERATION_MAX) << SS_OWNER_SLOT_BITS | slot;
}

static inline uint32_t owner_slot(uint32_t id)
{
    return id & 0xffffu;
}

/* What a thread knows of its own registration. */
struct registration {
    struct registration *next;
    struct ss_namespace *ns;
    uint32_t slot;
    uint32_t id;
    /* Of waits before they sleep (engine_handoff.c): */
    uint32_t cpus;    /* that the thread may run on; 0: not known yet */
    uint32_t spin_ns; /* how long to look, as it has paid so far */
    uint32_t misses;  /* how often in a row that was for nothing */
    uint64_t gives_way_from_ns; /* on one CPU: until then waits sleep at once */
};

/* The calling thread's registration, made if need be. 0; -EINTR; -EUSERS: no free slot; -EBADMSG. */
int owner_register(struct ss_namespace *ns, struct registration **out);
/* The same if it exists already, else NULL. */
struct registration *owner_registered(struct ss_namespace *ns);
/* Ends the calling thread's registration if it owns no mutex. The caller waits on nothing: it is here. */
int owner_deregister(struct ss_namespace *ns);
/* Goes up before a registration of any thread of this process is forgotten. */
extern atomic_uint registrations_ended;
/* Forgets all registrations of the calling thread: after fork, in the child. */
void owner_forget_all(void);
/* Any living thread of this process registered? Under the gate; reaps the dead ones it meets. */
bool owner_any_of_process(struct ss_namespace *ns);

/* Says what the calling thread is about to sleep on, and that it no longer does. */
void owner_publish_wait(struct registration *self, uint32_t kind, const uint32_t *objects, uint32_t count);
void owner_withdraw_wait(struct registration *self);

/* Under the gate: reaps dead threads (their mutexes become abandoned), dead processes (their objects close). */
void owner_reap_threads(struct ss_namespace *ns);
/* Under the gate, between transactions: is the thread of that slot, or with that owner id, alive? One that is found
 * dead leaves all queues at once; it is buried (owner_bury_dead) before the gate is unlocked. */
bool owner_slot_is_alive(struct ss_namespace *ns, uint32_t slot);
bool owner_is_alive(struct ss_namespace *ns, uint32_t id);
/* Abandons the mutexes of the threads that were found dead, and frees their slots; or leaves that to the broker. */
void owner_bury_dead(struct ss_namespace *ns);
/* The lock word of the liveness mutex of a living thread, to sleep on: the kernel wakes a sleeper when it dies.
 * Returns what the word is now, or 0 if nobody living holds it. */
uint32_t owner_watch(shared32 *word);
void owner_reap_processes(struct ss_namespace *ns);
/* Do dead threads keep things that the broker is about to free? Under the gate. */
bool owner_burial_is_pending(struct ss_namespace *ns);
/* Gives it a moment, without the gate: -EINTR, to try again, or -ENOTRECOVERABLE if there is no broker any more. */
int owner_await_burial(struct ss_namespace *ns);
/* Under the gate: does a living process have the object open, or a living thread own it? */
bool owner_object_in_use(struct ss_namespace *ns, uint32_t index);

/* Under the gate: takes a process slot and its byte, on a descriptor. 0, -EUSERS. */
int owner_claim_process(struct ss_namespace *ns, int fd, uint32_t *slot);
void owner_free_process(struct ss_namespace *ns, uint32_t slot);
/* Opens for one process what another has open. */
void owner_copy_open_set(struct ss_namespace *ns, uint32_t from, uint32_t to);
/* Writes the calling process's pid and start time into its slot. */
void owner_sign_process(struct ss_namespace *ns, uint32_t slot);

#endif
