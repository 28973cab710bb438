/* The seam, part 6 of 6: the ntsync driver, whose every call is one ioctl. The production variant: the ioctl.
 *
 * Both return what the ioctl does, or -errno. A wait may sleep, and then -EINTR means that it has taken nothing.
 */
#ifndef SS_DEVICE_H
#define SS_DEVICE_H

#include <errno.h>

#include "ntsync.h"

static inline int device_call(int fd, unsigned long request, void *argument)
{
    int rc = ioctl(fd, request, argument);
    return rc < 0 ? -errno : rc;
}

static inline int device_wait(int fd, unsigned long request, struct nt_wait *arguments)
{
    return device_call(fd, request, arguments);
}

#endif
