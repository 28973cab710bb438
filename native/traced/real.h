/* The operations of the plain seam under names that do not clash with the traced ones (real.c). */
#ifndef SS_REAL_H
#define SS_REAL_H

#include <stdbool.h>
#include <stdint.h>

uint64_t real_now_ns(void);
uint32_t real_thread_number(void);
int real_sleep(const void *sleeps, uint32_t count, uint64_t deadline_ns);
int real_wake(void *word, int count);
int real_waitv_probe(void);
bool real_refuses_wide_values(void);
void real_yield(void);
int real_init(void *mutex);
bool real_is_intact(const void *mutex);
int real_trylock(void *mutex);
int real_lock_for(void *mutex, uint64_t duration_ns);
int real_unlock(void *mutex);
int real_consistent(void *mutex);

#endif
