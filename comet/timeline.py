"""The steps of one recovery, from a death to the first answer, each with its moment in monotonic seconds. Pure.

Some steps the supervisor does or hears of; others the replica itself has seen, by the same clock, and tells later. News travels: a process
may listen before it is heard that it was started, and answer before it is heard that it is ready. So what a replica has seen bounds what
was heard: nothing that it needs has come after it.
"""

Steps = tuple[tuple[str, float], ...]
"""In order of their causes. Empty where no recovery is under way: a first start is none."""


def heard(steps: Steps, name: str, at: float) -> Steps:
    """Note a step at the moment when it was heard of."""
    return (*steps, (name, at)) if steps else steps


def witnessed(steps: Steps, name: str, at: float) -> Steps:
    """Note a step that its replica saw itself, at `at`. What came before it was heard of too late if it was heard of after it."""
    return (*((known, min(moment, at)) for known, moment in steps), (name, at)) if steps else steps


def timeline(steps: Steps) -> dict[str, float]:
    """The steps as milliseconds since the first of them. A step that was repeated (a start that failed) counts as its last time."""
    begin = steps[0][1]
    return {name: round((at - begin) * 1000, 1) for name, at in steps}
