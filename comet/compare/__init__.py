"""`compare` measures what a container costs compared with a process, and what it provides.

The same worker application runs as OS process and as container, each kind in its own cluster (a *side*, in a temporary
folder, on free ports). The sides differ only in `runtime`. Every question is put to one kind and immediately to the
other, in alternating order from round to round, so that other load on the machine affects both alike. The report has
medians and the paired difference with its interval.

`side` starts and stops the two clusters, `meter` reads clocks and memory, `load` is the clients. The questions are
`life` (start, death, hang, stop, and what clients saw), `cost` (latency and CPU per request), `growth` (memory, start
and disk from 1 to 20 replicas), and `isolation` (what each kind keeps from its neighbors, tried by `attempts`).
`layers` has what a container is made of: its start, system calls, disk, CPU, the ways through the network. `study` asks
all of them in every round, as far as time permits (`budget`). `findings` holds the results, `figures` the statistics,
`grown`, `verdicts` and `waterfall` what is derived from them (all pure); `words` and `report` tell it.
"""

QUESTIONS = ("life", "cost", "memory", "growth", "isolation", "start", "calls", "disk", "cpu", "network")
"""What may be asked alone. The first three are asked in every round, the network once for all rounds, the others in as
many as there is time for (and growth once beyond the usual)."""
