"""What supervisor and load balancer share: settings, control messages, counters."""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
