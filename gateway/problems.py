"""Problems that only the gateway can have, beside those of ``shared.errors``."""

from typing import Any

from shared.errors import Problem, ReducedCapacity, ServiceUnavailable


class RequestTimeout(Problem):
    status, code, title = 408, "request_timeout", "The request did not arrive in time"


class HeadersTooLarge(Problem):
    status, code, title = 431, "headers_too_large", "The request's headers are over the limit"


class VersionNotSupported(Problem):
    status, code, title = 505, "http_version_not_supported", "The gateway speaks HTTP/1.1 and HTTP/1.0"


class BadGateway(Problem):
    status, code, title = 502, "bad_gateway", "A service did not answer properly"


class UpstreamTimeout(Problem):
    status, code, title = 504, "upstream_timeout", "A service did not answer in time"


class UpstreamUnavailable(ServiceUnavailable):
    code, title = "upstream_unavailable", "The service cannot be reached at the moment"


class UpstreamBusy(ServiceUnavailable):
    code, title = "upstream_busy", "The service takes no more large requests at the moment"


class ClientLeft(ConnectionAbortedError):
    """The client left before it had sent all of its request, which is no fault of the service."""


class UpstreamAborted(Exception):
    """A service failed after its answer had begun: the connection must break, never end cleanly."""


class Overloaded(ReducedCapacity):
    code, title = "overloaded", "There is more to do than can be done in time"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, **kwargs: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **kwargs)
