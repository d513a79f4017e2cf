"""What `ps`, the page and the metrics show: rates, snapshots, CPU and memory, the status from outside."""
