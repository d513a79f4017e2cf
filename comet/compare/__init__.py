"""`compare`: what does a container cost over a process, and what does it buy?

The same worker application runs as OS process and as container, each kind in a cluster of its own (a *bed*, in a temporary folder, on free
ports) that differs in `runtime` alone. Every question is put to one kind and at once to the other, in alternating order from round to
round, so that what the machine does meanwhile meets both alike; what is reported are medians and the paired difference with its
interval.

`bed` makes and ends the two clusters, `meter` reads clocks and memory, `load` is the clients. The questions: `life` (start, death, hang,
stop, and what clients saw), `cost` (latency and CPU per request), `growth` (memory, start and disk from 1 to 20 replicas), `isolation`
(what each keeps from its neighbours, tried by `attempts`). `study` asks all of them in every round, as far as
the time goes (`budget`); `findings` holds what came of it, `figures` the statistics, `grown` and `verdicts` what is made of growth and
attacks (all pure); `words`, `terminal`, `svg` and `page` tell it.
"""
