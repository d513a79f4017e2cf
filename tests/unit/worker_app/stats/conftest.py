"""Databases of both dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import postgres


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "stats.db")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either dialect: what a test says must hold for both."""
    if request.param == "sqlite":
        return str(tmp_path / "stats.db")
    return postgres.schema(request.getfixturevalue("postgres_server")).url
