"""The quota stage: what is taken is given back in whatever way a request ends, and what a caller is told."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import http_sf
import pytest

from gateway.limits import LimitGate
from gateway.operations import Operations
from gateway.routing import Route
from gateway.stages import Call, Taken
from shared.auth import Principal
from shared.auth.principal import ANONYMOUS
from shared.ids import NIL, new_id
from shared.limits.decision import Decision, Verdict
from shared.limits.metering import caller_of
from shared.limits.policies import Caller, Operation, Policy
from tests.gateway.upstreams import proxied

POLICY = (b"ratelimit-policy", b'"day";q=9;w=86400')
STATE = (b"ratelimit", b'"day";r=5;t=9')


class Gate:
    """A stage that counts who is inside."""

    def __init__(self) -> None:
        self.inside = self.taken = 0

    async def take(self, call: Call) -> Taken:
        self.inside += 1
        self.taken += 1
        return Taken([POLICY, STATE], self.ended)

    def ended(self, status: int) -> None:
        assert status
        self.inside -= 1


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def hosted(start: Any, offline_settings: Any, gate: Gate) -> Iterator[Any]:
    with start(offline_settings.model_copy(update={"cors_origins": ["https://app.example"]}), quotas=gate) as running:
        yield running


@pytest.fixture(scope="module")
def apart(start: Any, offline_settings: Any, gate: Gate, hosted: Any) -> Iterator[Any]:
    with proxied(start, offline_settings, hosted.echo, quotas=gate) as running:
        yield running


@pytest.fixture(params=["hosted", "apart"])
def front(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def names(headers: Any) -> list[str]:
    """The policies that ``RateLimit`` names."""
    items: Any = http_sf.parse(dict(headers)[b"ratelimit"], tltype="list")
    return [name for name, _ in items]


class TestTheSeam:
    @pytest.mark.parametrize(
        ("action", "statuses"),
        [
            ("", {200}),
            ("early", {422}),
            ("raise", {500}),
            ("nothing", {500, 502}),  # apart, its server answers for it
            ("hang", {504}),
            ("abort", {200}),
            ("cut", {200}),
        ],
    )
    def test_what_was_taken_is_given_back_and_told(
        self, front: Any, gate: Gate, eventually: Callable[..., None], action: str, statuses: set[int]
    ) -> None:
        before = gate.taken
        reply = front.get(f"/v1/echo?do={action}")
        assert reply.status in statuses
        assert reply.headers["ratelimit"] == STATE[1].decode()
        assert reply.headers["ratelimit-policy"] == POLICY[1].decode()
        assert gate.taken == before + 1
        eventually(lambda: gate.inside == 0, "the release")

    def test_a_client_that_leaves_gives_back(
        self, front: Any, gate: Gate, raw: Any, eventually: Callable[..., None]
    ) -> None:
        front.echo.entered.clear()
        client = front.connect()
        client.sendall(raw("/v1/echo?do=hang"))
        eventually(front.echo.entered.is_set)
        assert gate.inside == 1
        client.close()
        eventually(lambda: gate.inside == 0, "the release")

    def test_a_body_over_the_limit_gives_back(self, front: Any, gate: Gate, eventually: Callable[..., None]) -> None:
        reply = front.send(
            b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + b"x" * 65_535 + b"\r\n"
        )
        assert (reply.status, reply.headers["ratelimit"]) == (413, STATE[1].decode())
        eventually(lambda: gate.inside == 0, "the release")

    def test_what_is_refused_before_takes_nothing(self, front: Any, gate: Gate) -> None:
        before = gate.taken
        for path in ("/v1/private", "/nothing", "/livez", "/"):
            assert "ratelimit" not in front.get(path).headers
        assert gate.taken == before

    def test_a_service_does_not_speak_for_the_gateway(self, front: Any) -> None:
        headers = front.get("/v1/echo?do=limits").headers
        assert (headers["ratelimit"], headers["ratelimit-policy"]) == (STATE[1].decode(), POLICY[1].decode())
        assert "x-ratelimit-remaining" not in headers
        assert headers["retry-after"] == "2"

    def test_a_service_that_refuses_names_its_own_limit(self, front: Any, raw: Any) -> None:
        client = front.connect()
        client.sendall(raw("/v1/echo?do=metered"))
        head = client.recv(65536).decode().lower()
        lines = [line for line in head.split("\r\n") if line.startswith(("ratelimit", "retry-after", "x-ratelimit"))]
        assert sorted(lines) == [
            'ratelimit-policy: "theirs";q=1;w=2',
            'ratelimit: "theirs";r=1;t=2',
            "retry-after: 2",
        ]

    def test_pages_of_other_origins_may_read_them(self, hosted: Any) -> None:
        headers = hosted.get("/v1/echo", "Origin: https://app.example").headers
        exposed = set(headers["access-control-expose-headers"].split(", "))
        assert {"RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id"} <= exposed


ROUTE = Route("/v1/contacts", "crm")
DOCUMENT = {"paths": {"/v1/contacts/{contact_id}": {"get": {"x-rate-limit": {"cost": 3, "class": "read"}}}}}
GET = Operation("GET", "/v1/contacts/{contact_id}", 3, "read")


class Limits:
    """Decides as it is told to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.given_back: list[Decision] = []
        self.decision = Decision(True)

    async def check(self, caller: Caller, operation: Operation, cost: int | None = None) -> Decision:
        self.asked.append((caller, operation))
        return self.decision

    async def take(self, wanted: Sequence[tuple[Policy, str]]) -> Decision:
        self.asked += [(policy.name, subject) for policy, subject in wanted]
        return self.decision

    def give_back(self, decision: Decision) -> None:
        self.given_back.append(decision)


class Usage:
    def __init__(self) -> None:
        self.recorded: list[Any] = []

    def record(self, caller: Caller, actor_type: str, operation: Operation, **numbers: Any) -> None:
        self.recorded.append((caller, actor_type, operation, numbers))

    def refuse_after_all(self, caller: Caller, actor_type: str, operation: Operation) -> None:
        self.recorded.append((caller, actor_type, operation, {"refused": True}))


class TestTheGate:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits()

    @pytest.fixture
    def usage(self) -> Usage:
        return Usage()

    @pytest.fixture
    def refused(self) -> list[str]:
        return []

    @pytest.fixture
    def gate(self, limits: Limits, usage: Usage, refused: list[str]) -> LimitGate:
        return LimitGate(limits, usage, refused.append)

    def call(self, principal: Principal, method: str = "GET", path: str = "/v1/contacts/7") -> Call:
        operation = Operations(DOCUMENT, [ROUTE]).find(method, path, ROUTE.prefix)
        return Call(method, path, path.encode(), b"", [], ROUTE, operation, principal, caller=caller_of(principal))

    def verdict(self, name: str, *, allowed: bool = True, **fields: Any) -> Verdict:
        policy = Policy(new_id(), UUID(int=1), name, 10, **fields)
        return Verdict(policy, "organization", 10, 4 if allowed else 0, 2.5, allowed, "lease")

    async def test_whose_call_it_is(
        self, gate: LimitGate, limits: Limits, usage: Usage, principal: Any, organization_id: UUID
    ) -> None:
        await gate.take(self.call(principal(actor_type="user", actor_id="u1")))
        await gate.take(self.call(principal(actor_type="api_key", actor_id="k1", on_behalf_of="u2"), "HEAD"))
        by_user, by_key = Caller(organization_id, None, "u1"), Caller(organization_id, "k1", "u2")
        assert limits.asked == [(by_user, GET), (by_key, GET)]
        numbers = {"allowed": True, "cost": 3, "shadow": False}
        assert usage.recorded == [(by_user, "user", GET, numbers), (by_key, "api_key", GET, numbers)]

    async def test_who_is_nobody_yet_passes(self, gate: LimitGate, limits: Limits, usage: Usage) -> None:
        assert await gate.take(self.call(ANONYMOUS)) == ((), None, None)
        assert (limits.asked, usage.recorded) == ([], [])

    async def test_who_has_no_organisation_has_a_limit_of_the_platform(
        self, gate: LimitGate, limits: Limits, usage: Usage
    ) -> None:
        wanderer = Principal(NIL, "user", "u1")
        assert (await gate.take(self.call(wanderer))).refusal is None
        assert limits.asked == [("without-organization", "user:u1")]
        limits.decision = Decision(False, (self.verdict("without-organization", allowed=False),), 3)
        refusal = (await gate.take(self.call(wanderer))).refusal
        assert refusal is not None
        assert (refusal.status, refusal.headers) == (429, {"Retry-After": "3"})
        limits.decision = Decision(False, (), 1, unavailable=True)
        refusal = (await gate.take(self.call(wanderer))).refusal
        assert refusal is not None
        assert refusal.status == 503
        assert usage.recorded == []

    async def test_an_admitted_call(self, gate: LimitGate, limits: Limits, usage: Usage, principal: Any) -> None:
        ended: list[int] = []
        watched = self.verdict("watched", allowed=False, shadow=True)
        verdicts = (self.verdict("minute"), watched)
        limits.decision = Decision(True, verdicts, _on_release=lambda: ended.append(1))
        headers, end, refusal = await gate.take(self.call(principal()))
        assert headers == [(b"ratelimit-policy", b'"minute";q=10;w=60'), (b"ratelimit", b'"minute";r=4;t=3')]
        assert refusal is None
        assert end is not None
        end(200)
        end(200)
        assert (ended, limits.given_back) == ([1], [])
        assert usage.recorded[0][3] == {"allowed": True, "cost": 3, "shadow": True}

    async def test_what_a_service_refuses_to_pay_for_costs_nothing(
        self, gate: LimitGate, limits: Limits, usage: Usage, principal: Any
    ) -> None:
        _, end, _ = await gate.take(self.call(principal()))
        assert end is not None
        end(429)
        assert limits.given_back == [limits.decision]
        assert [each[3].get("refused") for each in usage.recorded] == [None, True]

    async def test_a_refused_call(
        self, gate: LimitGate, limits: Limits, usage: Usage, refused: list[str], principal: Any
    ) -> None:
        verdicts = [
            self.verdict("burst", plan="pro"),
            self.verdict("minute", allowed=False, plan="pro"),
            self.verdict("ours", allowed=False),
            self.verdict("watched", allowed=False, shadow=True),
        ]
        limits.decision = Decision(False, tuple(verdicts), 3)
        headers, end, refusal = await gate.take(self.call(principal()))
        assert end is None
        assert refusal is not None
        assert (refusal.status, refusal.headers) == (429, {"Retry-After": "3"})
        assert refusal.extensions["violated-policies"] == ["minute", "ours"]
        assert names(headers) == ["burst", "minute", "ours"]
        assert refused == ["minute", "own"], "names that organisations choose would make figures without end"
        assert usage.recorded[0][3] == {"allowed": False, "cost": 3, "shadow": True}

    async def test_an_undecided_call(self, gate: LimitGate, limits: Limits, refused: list[str], principal: Any) -> None:
        limits.decision = Decision(False, (), 1, unavailable=True)
        _, _, refusal = await gate.take(self.call(principal()))
        assert refusal is not None
        assert (refusal.status, refusal.code) == (503, "limiter_unavailable")
        assert refused == ["unavailable"]
