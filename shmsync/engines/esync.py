"""``esync``: ESYNC as Wine shipped it, in ``native/engine_esync.c``, mistakes included."""

from shmsync._native import lib
from shmsync.engine import Engine, Semantics

ENGINE = Engine(
    name="esync",
    number=lib.SS_ENGINE_ESYNC,
    semantics=Semantics.ABANDONED_IN_WAIT_ALL,
    summary="ESYNC as Wine shipped it: an eventfd for each object, a slot beside it, and a broker",
    brokered=True,
)
