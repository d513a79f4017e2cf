"""How many random histories a test draws. Apart from the fakes: quick tests take those without Hypothesis."""

import os

from hypothesis import HealthCheck, settings


def histories(few: int, many: int, steps: int) -> settings:
    """For random histories of up to so many steps: the same few of them each time, or with COMET_TEST_FULL many
    others.
    """
    full = bool(os.environ.get("COMET_TEST_FULL"))
    return settings(
        max_examples=many if full else few,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not full,
        suppress_health_check=list(HealthCheck),
    )
