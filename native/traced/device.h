/* The seam, part 6 of 6, traced: see plain/device.h for what the operations are. Each is one step, taken by the real
 * driver; only sleeping in it is the scheduler's business (device.c). */
#ifndef SS_DEVICE_H
#define SS_DEVICE_H

#include <errno.h>
#include <stdint.h>

#include "ntsync.h"
#include "step.h"

int step_device(const struct step_site *site, int fd, unsigned long request, void *argument);
int step_device_wait(const struct step_site *site, int fd, unsigned long request, struct nt_wait *arguments);

#define device_call(fd, request, argument) step_device(STEP_SITE(STEP_IOCTL, #request), (fd), (request), (argument))
#define device_wait(fd, request, arguments) \
    step_device_wait(STEP_SITE(STEP_WAIT, #request), (fd), (request), (arguments))

/* ---- for the scheduler ---- */

/* What stands for the object behind a descriptor, to tell objects apart by; NULL if it can be none. */
const void *device_object(int fd);
/* What stands for all objects together: a call on one can end a wait for several. */
extern const char device_state;
/* After a step: until every wait under way has either returned, which sched_returned is told, or sleeps. */
void device_settle(void);
/* Ends the wait of a thread, if it is in one. */
void device_leave(uint32_t thread);

#endif
