"""Workers of one cluster that alternate between containers and plain processes."""
