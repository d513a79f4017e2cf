"""Faults injected by the load balancers (`fault-point: lb`)."""
