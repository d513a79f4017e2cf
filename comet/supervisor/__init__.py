"""The supervisor: lifecycle of a run, the loop that owns the state, operations, rolling updates, takeover."""
