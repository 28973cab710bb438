"""``fsync``: FSYNC as Wine shipped it, in ``native/engine_fsync.c``, mistakes included."""

from shmsync._native import lib
from shmsync.engine import Engine, Semantics

ENGINE = Engine(
    name="fsync",
    number=lib.SS_ENGINE_FSYNC,
    semantics=Semantics(0),
    summary="FSYNC as Wine shipped it: shared words, futex_waitv, everybody wakes and tries again",
)
