"""A load balancer as a process: sockets, signals, control, admission, health checks, fork and standby."""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
