"""The failure lab: what is known to go wrong in ESYNC and FSYNC, made to happen on demand.

General layout: ``catalogue`` tells the failures in words, ``scenario`` is what a scenario is and
how it is run, ``scenarios/`` has one for each entry and engine (with ``schedules`` and ``real`` to
help them), ``matrix`` runs them all, ``trace`` prints an interleaving, ``report`` draws everything
on one page, ``cli`` is ``shmsync lab``.
"""
