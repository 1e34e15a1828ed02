"""Schemathesis on the merged document, single calls and sequences of them: nothing answers 5xx.

Single calls where most can go wrong, which is apart; sequences in every mode.
"""

from functools import cache
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cli.contracts import merged_document
from tests.e2e.platform import SPLIT, RunningPlatform, params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
schema: Any = schemathesis.openapi.from_dict(merged_document())
# These would end the credential or the organisation the run itself uses.
schema = schema.exclude(path_regex=r"^/v1/(sessions/current|members|api-keys/|organization|me/password)")


def _harmless(case: Any) -> Any:
    """The call, without a limit that would refuse the calls of the tests that share the platform."""
    if case.path.startswith("/v1/limits/policies") and isinstance(case.body, dict):
        if "overrides" not in case.path:
            case.body["shadow"] = True
        elif isinstance(quota := case.body.get("quota"), int) and quota >= 0:
            case.body["quota"] = quota | 2**30  # more than a plan gives
    return case


def _authorized(platform: RunningPlatform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.demo['organizations'][0]['api_key']}"}


@cache
def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # reading it for every call takes a while
    return session


@pytest.mark.parametrize("platform", params(SPLIT), indirect=True)
@schema.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_single_calls(case: Any, platform: RunningPlatform) -> None:
    answer = _harmless(case).call(base_url=platform.base_url, headers=_authorized(platform), session=_session())
    case.validate_response(answer, checks=CHECKS)


def test_sequences_of_calls(platform: RunningPlatform) -> None:
    machine = schema.as_state_machine()
    base_url, headers = platform.base_url, _authorized(platform)

    class Calls(machine):  # type: ignore[misc, valid-type]
        def before_call(self, case: Any) -> None:
            _harmless(case)

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"base_url": base_url, "headers": headers, "session": _session()}

        def validate_response(self, response: Any, case: Any, additional_checks: Any = None, **_: Any) -> None:
            case.validate_response(response, checks=CHECKS)

    Calls.run(
        settings=settings(
            max_examples=12 if platform.mode is SPLIT else 5,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
    )
