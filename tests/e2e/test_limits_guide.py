"""The commands of docs/guides/limits.md, pasted into a shell as they stand there."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.guides import said
from tests.e2e.platform import POSTGRES, SPLIT, Mode, RunningPlatform, params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(params=params(POSTGRES, SPLIT))
def platform(request: pytest.FixtureRequest, platforms: Callable[[Mode], RunningPlatform]) -> RunningPlatform:
    """What the events travel on changes nothing here."""
    return platforms(request.param)


def documents(text: str) -> list[Any]:
    """The JSON documents among what was printed."""
    found, decoder = [], json.JSONDecoder()
    while (start := text.find("{")) >= 0:
        document, end = decoder.raw_decode(text[start:])
        found.append(document)
        text = text[start + end :]
    return found


def test_set_hit_read_simulate_raise(platform: RunningPlatform) -> None:
    printed = said(platform, "limits")
    policy = printed["Set a limit"].strip()

    hit = printed["Run into it"]
    assert "200 200 200 200 200 429 429" in hit
    headers = {name.lower() for name in re.findall(r"^([A-Za-z-]+):", hit, re.MULTILINE)}
    assert {"ratelimit", "ratelimit-policy", "retry-after"} <= headers
    assert '"contact-lists";r=0' in hit
    refusal, limits = documents(hit)
    assert refusal["violated-policies"] == ["contact-lists"]
    (entry,) = [each for each in refusal["receipt"]["policies"] if each["refused"]]
    assert (entry["policy_id"], entry["quota"], entry["remaining"]) == (policy, 5, 0)
    (limit,) = limits["data"]
    assert limit["admitted"] <= limit["used"]

    (simulated,) = documents(printed["Try another before you save it"])
    (mine,) = [each for each in simulated["subjects"] if each["subject"] == entry["subject"]]
    assert mine["refused"] >= 2

    raised = printed["Raise it"]
    assert raised.startswith("200\n")
    (history,) = documents(raised)
    assert [each["action"] for each in history["data"]] == ["updated", "created"]
    assert history["data"][0]["changes"]["quota"] == {"before": 5, "after": 50}
