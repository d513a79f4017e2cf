"""Which containers with Comet's labels are copies: those of committed containers."""

from typing import Any

from comet.engine.own_containers import without_copies

OURS = {"comet.cluster": "0123456789ab", "comet.replica": "worker-0", "comet.fingerprint": "aa"}
IMAGES: dict[str, dict[str, str]] = {"built": {"comet.image": "worker"}, "committed": {**OURS, "comet.image": "worker"}}


def kept(image: str, labels: dict[str, str]) -> bool:
    entry: dict[str, Any] = {"Id": "c", "ImageID": image, "Labels": labels}
    return without_copies([entry], lambda asked: IMAGES.get(asked, {})) == [entry]


def test_a_container_with_labels_of_its_own_is_no_copy() -> None:
    assert kept("built", {**OURS, "comet.image": "worker"})
    assert kept("committed", {**IMAGES["committed"], "comet.fingerprint": "bb"})
    assert kept("committed", {**IMAGES["committed"], "comet.network": "worker-0"})


def test_a_container_with_the_labels_of_its_image_is_one() -> None:
    assert not kept("committed", IMAGES["committed"])
    assert not kept("committed", {**IMAGES["committed"], "owner": "somebody"})


def test_where_the_image_says_nothing_labels_count() -> None:
    assert kept("removed", OURS)
    assert kept("", OURS)


def test_each_image_is_asked_for_once() -> None:
    asked = list[str]()
    entries: list[dict[str, Any]] = [{"Id": str(number), "ImageID": "built", "Labels": OURS} for number in range(3)]
    assert len(without_copies(entries, lambda image: asked.append(image) or {})) == 3  # type: ignore[func-returns-value]
    assert asked == ["built"]
