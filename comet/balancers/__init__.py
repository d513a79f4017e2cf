"""The supervisor's side of the load balancers: their start, their routing table, their counts per worker."""
