"""Which of two makes the calls: ``shmsync._fast``, in C against CPython's own interface, or
``shmsync.calls``, through cffi. Both do the same. The first is missing where it could not be built
(a free-threaded Python), and not used if ``SHMSYNC_FAST=0`` is in the environment."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmsync.calls import Acquired, Core, Request, install
    from shmsync.objects import Mutex, Semaphore

    #: Why ``shmsync._fast`` is not in use, or None: it is.
    WHY_NOT: str | None

    def enter(self: Mutex | Semaphore) -> Acquired:
        """What ``with`` calls from CPython 3.14 on, if ``shmsync._fast`` is in use."""

elif os.environ.get("SHMSYNC_FAST") == "0":
    from shmsync.calls import Core, Request, install

    WHY_NOT = "SHMSYNC_FAST=0"
else:
    try:
        from shmsync import _fast, calls

        if _fast.calls is not calls:  # CPython gives the first import's module to a second one
            raise ImportError("shmsync._fast belongs to another import of shmsync")
        from shmsync._fast import Core, Request, entering
        from shmsync._fast import install as install_c

        WHY_NOT = None

        # CPython 3.14 looks for signals between an __enter__ in C and its block, where an exception
        # would leave the mutex taken. It does not after one in Python, in which there is no call.
        def enter(self):
            return entering[self]

        def install(class_):
            install_c(class_)
            if sys.version_info >= (3, 14) and hasattr(class_, "__enter__"):
                class_.__enter__ = enter
            return class_

    except ImportError as error:
        from shmsync.calls import Core, Request, install

        WHY_NOT = str(error)

__all__ = ["WHY_NOT", "Core", "Request", "install"]
