"""``shmsync._fast``, in C (``native/python/fast.c``): see ``shmsync.calls`` for what each does."""

from shmsync.calls import Core as Core
from shmsync.calls import Request as Request
from shmsync.calls import install as install
