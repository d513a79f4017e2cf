"""The runtime of upstreams that already run (`upstreams`): balanced and checked, never started or stopped."""
