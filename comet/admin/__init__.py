"""The admin server: dashboard, JSON API and metrics on 127.0.0.1, in a process next to the supervisor.

    supervisor ── comet.admin.process ══ feed: changes, one JSON object a line ══► comet.admin.view_model ── app
        ▲                                                                                                     │
        └────────────────────────── control socket: commands, as the command line gives them ◄────────────────┘

Browsers and Prometheus connect to the app.

AdminProcess runs in the supervisor's loop. It writes at most once a tick and never waits. The server reads the latest
state and holds nothing through which a reader could block the supervisor. The supervisor binds and holds the listening
socket, as it does for a load balancer: when the server dies, connections queue until the next server accepts them.

The alternative, a thread of the supervisor, was measured with the same application. 50 pollers without a pause made the
restart of a killed load balancer 3.6 and 5.4 times as slow (28 to 102 ms, 13 to 73 ms; medians of 8 kills, on 2 cores
that others used too), because the loop has to wait for the interpreter's lock. With the process it was 1.7 times both
times (33 to 58 ms, 31 to 53 ms), because the cores are shared.
"""
