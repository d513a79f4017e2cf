"""The decisions, all pure: replicas, observations, transitions, the planner; and the interface of drivers."""
