"""HTTP load for measurements: clients in a closed and in an open model."""
