"""`bench.sh features`: each feature of Comet's load balancer next to that of HAProxy, on the same traffic."""
