"""Scenario files: parsed, and played on a running cluster."""

CHAOS = {"worker": 4, "lb": 4, "freeze": 2, "fault": 2}
"""What chaos does, with how often each comes: SIGKILL of a worker or a load balancer, SIGSTOP, a leased fault."""
