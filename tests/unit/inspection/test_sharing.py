"""What replicas share, by the numbers of their pages."""

from comet.inspection import sharing
from comet.inspection.facts import DENIED
from comet.inspection.sharing import ALONE, PAGE


def test_pages_that_any_other_replica_has_too_are_shared() -> None:
    known = {"worker-0": {1, 2, 3}, "worker-1": {2, 4}, "lb-0": {3, 9}}
    assert sharing.together(known) == {"worker-0": 2 * PAGE, "worker-1": PAGE, "lb-0": PAGE}


def test_one_replica_shares_with_none() -> None:
    assert sharing.together({"worker-0": {1}}) == {"worker-0": ALONE}


def test_an_unreadable_replica_is_not_one_that_shares_nothing() -> None:
    assert sharing.together({"worker-0": {1}, "worker-1": DENIED}) == {"worker-0": DENIED, "worker-1": DENIED}
