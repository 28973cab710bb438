"""The benchmark: shmsync beside what people use today, in turns, in one run.

General layout: ``model`` is what is measured and how much of it, ``contestants/`` who takes part,
``suites/`` what they do, ``pool`` and ``worker`` the processes in which they do it, ``measure`` the
loops and looks that the suites share, ``floor`` the loops in C, ``leftovers`` what is swept up;
``runner`` the rounds, ``results`` their statistics and JSON, ``machine`` where it ran; ``tables``
and ``plots`` how it is shown, ``figures`` what was to be reached; ``cli`` is ``shmsync bench``, and
``publish`` remakes what the README shows. ``counting`` and ``instructions`` are about instructions
instead of time, in a virtual machine that counts them.

The process that coordinates measures nothing itself. All that may hang is done by worker processes,
which are killed when their time is up, so a peer that hangs costs its row and not the run.
"""
