"""Every block of docs/testing-your-client.md is run as it stands, on one cluster that they share."""

import asyncio
import re
import threading
from collections.abc import Iterator

import aiohttp
import httpx
import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

import comet
from comet import RunningCluster
from tests.support import pages

PAGE = "docs/testing-your-client.md"
RECIPES = dict(re.findall(r"(?m)^### (.+)\n(?:\n.*)*?\n```python\n((?:.*\n)*?)```$", pages.read(PAGE)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with comet.cluster(worker=2, pool=1) as made:
        yield made


def test_there_are_fifteen() -> None:
    assert len(RECIPES) >= 15
    assert len(RECIPES) == pages.read(PAGE).count("\n### ")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(cluster: RunningCluster, name: str) -> None:
    known = {
        each.__name__: each
        for each in (aiohttp, asyncio, httpx, pytest, requests, threading, urllib3, HTTPAdapter, Retry)
    }
    try:
        exec(compile(RECIPES[name], name, "exec"), {"c": cluster, **known})
    finally:
        cluster.restore(timeout=60)
    assert {each.state for each in cluster.replicas().values()} == {"ready"}
