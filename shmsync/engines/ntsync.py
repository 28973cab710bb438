"""``ntsync``: Linux's own driver for these objects, in ``native/engine_ntsync.c``."""

import errno

from shmsync._native import lib
from shmsync.engine import Engine, Semantics

ENGINE = Engine(
    name="ntsync",
    number=lib.SS_ENGINE_NTSYNC,
    semantics=~Semantics(0),
    summary="the kernel's own: the objects are descriptors of /dev/ntsync, every call is one ioctl",
    brokered=True,
    reasons={
        errno.ENOENT: "there is no /dev/ntsync (the driver is in Linux 6.14 or newer, if it was"
        " built; try `modprobe ntsync`)",
        errno.EACCES: "no permission to open /dev/ntsync",
        errno.ENXIO: "/dev/ntsync has no driver behind it",
        errno.ENODEV: "/dev/ntsync has no driver behind it",
    },
)
