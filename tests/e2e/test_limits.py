"""Limits where several processes count one call: the gateway what its contract says, the service the rest."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared.ids import new_id
from tests.e2e.platform import POSTGRES, SPLIT, Mode, RunningPlatform, params, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(params=params(POSTGRES, SPLIT))
def client(request: pytest.FixtureRequest, platforms: Callable[[Mode], RunningPlatform]) -> Iterator[httpx.Client]:
    """An organisation's key, with ten units a month for companies."""
    platform = platforms(request.param)
    with platform.client() as made:
        name = f"companies-{new_id().hex[-8:]}"
        match = {"routes": ["* /v1/companies*"]}
        body = {"name": name, "quota": 10, "window": "month", "match": match}
        policy = made.post("/v1/limits/policies", json=body).raise_for_status().json()
        time.sleep(1)
        yield made
        made.delete(f"/v1/limits/policies/{policy['id']}").raise_for_status()
        time.sleep(1)


def create(client: httpx.Client, companies: int) -> httpx.Response:
    return client.post("/v1/companies/bulk", json={"items": [{"name": f"c{n}"} for n in range(companies)]})


def listed(client: httpx.Client, times: int) -> list[int]:
    return [client.get("/v1/companies", params={"limit": 1}).status_code for _ in range(times)]


def test_work_that_never_fits_costs_nothing(client: httpx.Client) -> None:
    refused = create(client, 20)
    assert refused.status_code == 429
    assert "the rest of this call alone costs 19. Waiting does not help" in refused.json()["detail"]
    assert listed(client, 12) == [200] * 10 + [429] * 2


def test_work_that_fits_passes_whoever_holds_the_units(client: httpx.Client) -> None:
    assert listed(client, 3) == [200] * 3
    waits: list[int] = []

    def passes() -> Any:
        answer = create(client, 7)
        if answer.status_code == 201:
            return answer
        assert answer.status_code == 429
        waits.append(int(answer.headers["retry-after"]))
        time.sleep(waits[-1])
        return None

    assert wait_for(passes, 10).json()
    assert set(waits) <= {1}
    assert listed(client, 1) == [429]
