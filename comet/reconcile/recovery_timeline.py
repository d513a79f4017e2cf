"""The steps of one recovery, from a death to the first response, each with its time in monotonic seconds. Pure.

"backoff" is the end of a wait before a further attempt; most recoveries have none. The supervisor takes or observes
some steps; the replica itself sees others, by the same clock, and reports them later.
Reports take time: a process may listen before the report of its start arrives. So a time reported by the replica bounds
the times of the steps before it.
"""

Steps = tuple[tuple[str, float], ...]
"""In order of cause. Empty where no recovery is under way (a first start is none)."""


def observed(steps: Steps, name: str, at: float) -> Steps:
    """Add a step at the time when the supervisor observed it."""
    return (*steps, (name, at)) if steps else steps


def reported(steps: Steps, name: str, at: float) -> Steps:
    """Add a step that the replica itself saw at `at`; steps before it cannot be later."""
    return (*((known, min(moment, at)) for known, moment in steps), (name, at)) if steps else steps


def timeline(steps: Steps) -> dict[str, float]:
    """Return the steps in their order, as milliseconds since the first.

    A repeated step (a failed start) counts with its last time.
    """
    begin = steps[0][1]
    last: dict[str, float] = {}
    for name, at in steps:
        last.pop(name, None)
        last[name] = at
    return {name: round((at - begin) * 1000, 1) for name, at in last.items()}
