"""``handoff``: exact NT semantics in user space, in ``native/engine_handoff.c``. The default."""

from shmsync._native import lib
from shmsync.engine import Engine, Semantics

ENGINE = Engine(
    name="handoff",
    number=lib.SS_ENGINE_HANDOFF,
    semantics=~Semantics(0),
    summary="exact: whoever signals an object hands it to the first who waits; survives every kill",
)
