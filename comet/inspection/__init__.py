"""What the kernel and the engine know of replicas, side by side: `inspect`, and the process tree of `ps --tree`."""
