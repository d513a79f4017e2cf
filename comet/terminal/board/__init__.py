"""The board: a live view of a cluster on a terminal.

It runs in a process of its own, so that no terminal, however slow, can block a supervisor.

`view` renders the known state as lines (pure except for rich), `screen` takes the terminal and restores it, `sources`
reads what is shown, `loop` connects them, and `window` is the supervisor's side.
"""
