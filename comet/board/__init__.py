"""The board: a cluster on a terminal, live. It runs in a process of its own, so that no terminal, however slow, holds a supervisor up.

`view` draws a picture as lines (pure but for rich), `screen` owns the terminal and gives it back, `sources` brings in what is shown,
`loop` puts them together, and `window` is the supervisor's end of it.
"""
