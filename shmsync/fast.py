"""Which of two makes the calls: ``shmsync._fast``, in C against CPython's own interface, or
``shmsync.calls``, through cffi. Both do the same. The first is missing where it could not be built
(a free-threaded Python), and not used if ``SHMSYNC_FAST=0`` is in the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmsync.calls import Core, Request, install

    #: Why ``shmsync._fast`` is not in use, or None: it is.
    WHY_NOT: str | None
elif os.environ.get("SHMSYNC_FAST") == "0":
    from shmsync.calls import Core, Request, install

    WHY_NOT = "SHMSYNC_FAST=0"
else:
    try:
        from shmsync._fast import Core, Request, install

        WHY_NOT = None
    except ImportError as error:
        from shmsync.calls import Core, Request, install

        WHY_NOT = str(error)

__all__ = ["WHY_NOT", "Core", "Request", "install"]
