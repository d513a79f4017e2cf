"""The admin server: dashboard, JSON API and metrics on 127.0.0.1, in a process of its own beside the supervisor.

    supervisor ── comet.admin.keeper ══ feed: what is new, one JSON object a line ══► comet.admin.picture ── app ◄── browser, Prometheus
        ▲                                                                                                     │
        └────────────────────────── control socket: commands, as the command line gives them ◄────────────────┘

The keeper (in the supervisor's loop) writes at most once a tick and never waits; the server reads the latest picture and holds nothing
that a reader could keep from the supervisor. Its listening socket is bound and held by the supervisor, like a load balancer's: when the
server dies, connections queue until the next one accepts.
"""
