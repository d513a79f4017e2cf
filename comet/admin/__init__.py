"""The admin server: dashboard, JSON API and metrics on 127.0.0.1, in a process of its own beside the supervisor.

    supervisor ── comet.admin.keeper ══ feed: what is new, one JSON object a line ══► comet.admin.picture ── app ◄── browser, Prometheus
        ▲                                                                                                     │
        └────────────────────────── control socket: commands, as the command line gives them ◄────────────────┘

The keeper (in the supervisor's loop) writes at most once a tick and never waits; the server reads the latest picture and holds nothing
that a reader could keep from the supervisor. Its listening socket is bound and held by the supervisor, like a load balancer's: when the
server dies, connections queue until the next one accepts.

A thread of the supervisor was tried in its place, with the same application. 50 pollers without a pause made the restart of a killed load
balancer 3.6 and 5.4 times as slow (28 to 102 ms, 13 to 73 ms; medians of 8 kills, on 2 cores that others used too), for the loop has to
wait for the interpreter's lock; with the process it was 1.7 times both times (33 to 58 ms, 31 to 53 ms), the cores being shared.
"""
