"""Text output for people: messages while a cluster starts and stops, progress, tables."""
