"""``fsync``: FSYNC as Wine shipped it, in ``native/engine_fsync.c``, mistakes included."""

import errno

from shmsync._native import lib
from shmsync.engine import Engine, Semantics

ENGINE = Engine(
    name="fsync",
    number=lib.SS_ENGINE_FSYNC,
    semantics=Semantics.PULSE_RESETS | Semantics.OWN_MUTEX_IN_WAIT_ALL,
    summary="FSYNC as Wine shipped it: shared words, futex_waitv, everybody wakes and tries again",
    reasons={errno.ENOSYS: "this kernel has no futex_waitv (Linux 5.16 or newer has it)"},
)
