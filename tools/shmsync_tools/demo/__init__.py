"""Programs that share GPUs by name, one of them killed; and the same with multiprocessing.

``tools/demo`` runs it. ``farm`` says what the programs agree on, ``coordinator`` and ``worker`` are
the programs, ``stdlib`` is the comparison, and ``__main__`` starts them, tells what happens and
checks it.
"""
