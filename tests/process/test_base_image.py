"""What the image's tag depends on, what a failed build says, and how long a registry may keep us waiting. No engine is
needed here.
"""

from __future__ import annotations

import sys
import tarfile
import threading
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.images import base_image, wheels
from comet.images.base_image import Base, BuildCancelled
from tests.unit.images.test_worker_image import NEVER, assert_every_parent_comes_first, quiet


def test_every_folder_of_the_base_is_an_entry_of_its_own(tmp_path: Path) -> None:
    base_image.run_step(
        "making the base image", [sys.executable, "-I", str(base_image.MAKER), str(tmp_path / "base.tar")], NEVER
    )
    with tarfile.open(tmp_path / "base.tar") as tar:
        assert_every_parent_comes_first(tar)
        assert "usr/local/bin/python3" in tar.getnames()


def test_a_failing_pip_is_quoted_and_leaves_no_half_filled_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    cache = tmp_path / ".comet" / "cache"
    with pytest.raises(
        UserError, match=r"(?s)collecting the worker's Python packages .*failed.*no-such-package-of-ours"
    ):
        wheels.collect(["no-such-package-of-ours"], Base("b", "k", "3.12", 36), cache, quiet, NEVER)
    assert list(cache.iterdir()) == []
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_step_on_the_host_can_be_cancelled() -> None:
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(BuildCancelled):
        base_image.run_step("waiting", [sys.executable, "-c", "import time; time.sleep(60)"], cancelled)
