/* Byte-range locks on a segment's descriptor: open file description locks, which belong to the descriptor and
 * its duplicates, not to the process, and which the kernel drops with the last of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "segment.h"

static struct flock range_of(int64_t byte, short type)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return range;
}

int range_lock(int fd, int64_t byte, bool exclusive, bool wait)
{
    struct flock range = range_of(byte, exclusive ? F_WRLCK : F_RDLCK);

    return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range) < 0 ? -errno : 0;
}

int range_unlock(int fd, int64_t byte)
{
    struct flock range = range_of(byte, F_UNLCK);

    return fcntl(fd, F_OFD_SETLK, &range) < 0 ? -errno : 0;
}

bool range_is_locked(int fd, int64_t byte)
{
    struct flock range = range_of(byte, F_WRLCK);

    /* An error means that nothing is known, and the careful answer is "in use". */
    return fcntl(fd, F_OFD_GETLK, &range) < 0 || range.l_type != F_UNLCK;
}
