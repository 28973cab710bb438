/* Loops that measure, for tools/shmsync_tools/bench only. There is no algorithm in here: loops of the first kind call
 * the production module, whose functions and objects they are given as addresses; the others call the kernel and the
 * C library, to show what there is below. No preprocessor lines: cffi reads this file as it is.
 *
 * Every function that is given `rounds` returns how many nanoseconds of CLOCK_MONOTONIC they all took, or -errno.
 */

/* ---- production.c: calls of shmsync._native ---- */

/* Addresses of its functions. */
struct bench_functions {
    uintptr_t wait;
    uintptr_t semaphore_release;
    uintptr_t mutex_release;
    uintptr_t event_set;
    uintptr_t event_reset;
    uintptr_t read;
};

/* To be called before any of the loops below. */
void bench_use(const struct bench_functions *functions);

/* `request` is the address of a struct ss_wait, which is used again and again; a handle is that of a struct
 * ss_handle. */
int64_t bench_wait(uintptr_t request, uint32_t rounds);
int64_t bench_wait_semaphore_release(uintptr_t request, uintptr_t semaphore, uint32_t rounds);
int64_t bench_wait_mutex_release(uintptr_t request, uintptr_t mutex, uint32_t rounds);
int64_t bench_set_wait(uintptr_t event, uintptr_t request, uint32_t rounds);
int64_t bench_set_reset(uintptr_t event, uint32_t rounds);
int64_t bench_read(uintptr_t handle, uint32_t rounds);
/* Two threads, one of which is the first: each waits for its own semaphore, and releases the other's. */
int64_t bench_ping_pong(uintptr_t request, uintptr_t semaphore, uint32_t rounds, uint32_t first);

/* ---- floors.c: what one thread pays below ---- */

int64_t bench_nothing(uint32_t rounds);                         /* the loop itself */
int64_t bench_count_down(uint32_t rounds);                      /* two machine instructions a round; -ENOSYS */
int64_t bench_getpid(uint32_t rounds);
int64_t bench_clock_gettime(uint32_t rounds);
int64_t bench_compare_and_swap(uint32_t rounds);
int64_t bench_futex_semaphore(uint32_t rounds);                 /* down and up, nobody waits: no system call */
int64_t bench_futex_calls(uint32_t shared, uint32_t rounds);    /* wakes nobody, and does not sleep */
int64_t bench_pthread_mutex(uint32_t robust, uint32_t rounds);  /* lock and unlock; a robust one is shared too */
int64_t bench_eventfd(uint32_t rounds);                         /* write and read */
int64_t bench_eventfd_poll(uint32_t count, uint32_t rounds);    /* poll so many, the last is ready; read that */

/* ---- driver.c: the kernel's /dev/ntsync, without shmsync around it ---- */

enum bench_pair { BENCH_SEMAPHORE, BENCH_MUTEX, BENCH_EVENT };

int64_t bench_driver_pair(uint32_t pair, uint32_t rounds);      /* wait and release; set and wait */
/* For any or all of so many semaphores. For any: the last has tokens. */
int64_t bench_driver_wait(uint32_t count, uint32_t all, uint32_t rounds);

/* ---- blocking.c: two processes, in memory that both have mapped ---- */

/* `word` is the address of a futex word that is 0 at first: whose turn it is, of role 0 and role 1. Looks at it so many
 * times before it sleeps. -ETIMEDOUT after the deadline. */
int64_t bench_futex_ping_pong(uintptr_t word, uint32_t role, uint32_t spins, uint64_t deadline_ns, uint32_t rounds);
/* Two blocking eventfds, of which the role-0 side writes first. -EINTR when a signal comes. */
int64_t bench_eventfd_ping_pong(int mine, int theirs, uint32_t role, uint32_t rounds);

/* 64 bytes at an address, for a robust mutex that is shared between processes. */
int bench_robust_make(uintptr_t mutex);
int bench_robust_lock(uintptr_t mutex);
/* Sleeps until the owner dies, and returns when that was heard of; -EPERM if he lives and unlocked it. */
int64_t bench_robust_await_death(uintptr_t mutex, uint64_t deadline_ns);
