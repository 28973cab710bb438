/* The interface of /dev/ntsync, as the kernel fixes it: declared here, since most machines have no header for it. */
#ifndef SS_NTSYNC_H
#define SS_NTSYNC_H

#include <stdint.h>
#include <sys/ioctl.h>

struct nt_semaphore {
    uint32_t count;
    uint32_t maximum;
};

struct nt_mutex {
    uint32_t owner;
    uint32_t count;
};

struct nt_event {
    uint32_t manual;
    uint32_t signaled;
};

struct nt_wait {
    uint64_t timeout;  /* absolute, CLOCK_MONOTONIC; ~0 never comes */
    uint64_t objects;  /* address of the descriptors */
    uint32_t count;
    uint32_t index;    /* out */
    uint32_t flags;
    uint32_t owner;
    uint32_t alert;    /* descriptor; 0: none */
    uint32_t pad;
};

#define NT_CREATE_SEMAPHORE _IOW('N', 0x80, struct nt_semaphore)
#define NT_SEMAPHORE_RELEASE _IOWR('N', 0x81, uint32_t)
#define NT_WAIT_ANY _IOWR('N', 0x82, struct nt_wait)
#define NT_WAIT_ALL _IOWR('N', 0x83, struct nt_wait)
#define NT_CREATE_MUTEX _IOW('N', 0x84, struct nt_mutex)
#define NT_MUTEX_UNLOCK _IOWR('N', 0x85, struct nt_mutex)
#define NT_MUTEX_KILL _IOW('N', 0x86, uint32_t)
#define NT_CREATE_EVENT _IOW('N', 0x87, struct nt_event)
#define NT_EVENT_SET _IOR('N', 0x88, uint32_t)
#define NT_EVENT_RESET _IOR('N', 0x89, uint32_t)
#define NT_EVENT_PULSE _IOR('N', 0x8a, uint32_t)
#define NT_SEMAPHORE_READ _IOR('N', 0x8b, struct nt_semaphore)
#define NT_MUTEX_READ _IOR('N', 0x8c, struct nt_mutex)
#define NT_EVENT_READ _IOR('N', 0x8d, struct nt_event)

#endif
