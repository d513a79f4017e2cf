"""The questions that a comparison puts to each kind, and the tools that measure the answers."""
