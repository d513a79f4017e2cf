"""Idle and slow connections to the admin server shut nobody else out: each user has a share, the cluster's user a
reserve.
"""

from dataclasses import dataclass

from comet.admin.connections import ALL_STRANGERS, OWNER_CONNECTIONS, STRANGER_CONNECTIONS, admit
from tests.support.user_clients import ALICE, BOB

OWNERS = {0, 1000}


@dataclass
class Held:
    uid: int | None
    served_at: float = 0.0
    busy: bool = False


def many(uid: int | None, count: int, busy: bool = False) -> list[Held]:
    return [Held(uid, float(at), busy) for at in range(count)]


def test_beyond_a_users_limit_the_slowest_connection_ends() -> None:
    held = many(ALICE, STRANGER_CONNECTIONS)
    assert admit(held[1:], ALICE, OWNERS) == (True, None)
    assert admit(held, ALICE, OWNERS) == (True, held[0])
    assert admit(held, BOB, OWNERS) == (True, None)
    assert admit(held, 1000, OWNERS) == (True, None)
    mine = many(1000, OWNER_CONNECTIONS)
    assert admit(mine + held, 1000, OWNERS) == (True, mine[0])
    assert admit(mine + held, 0, OWNERS) == (True, None)


def test_a_user_with_many_uids_gets_the_strangers_share_only() -> None:
    held = [Held(100_000 + number, float(number)) for number in range(ALL_STRANGERS - 3)] + many(ALICE, 3)
    accepted, dropped = admit(held, BOB, OWNERS)
    assert accepted
    assert dropped is not None
    assert (dropped.uid, dropped.served_at) == (ALICE, 0.0)
    assert admit(held, 1000, OWNERS) == (True, None)


def test_unknown_users_are_strangers() -> None:
    held = many(None, STRANGER_CONNECTIONS)
    assert admit(held, None, OWNERS) == (True, held[0])


def test_one_that_works_is_not_dropped() -> None:
    held = [*many(ALICE, STRANGER_CONNECTIONS - 1, busy=True), Held(ALICE, 99.0)]
    assert admit(held, ALICE, OWNERS) == (True, held[-1])
    assert admit(many(ALICE, STRANGER_CONNECTIONS, busy=True), ALICE, OWNERS) == (False, None)


def test_few_descriptors_leave_smaller_shares() -> None:
    held = many(ALICE, 4)
    assert admit(held, ALICE, OWNERS, share=4 / STRANGER_CONNECTIONS) == (True, held[0])
    assert admit(held[:1], ALICE, OWNERS, share=0.0001) == (True, held[0])
