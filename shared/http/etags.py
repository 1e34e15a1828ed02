"""Entity tags (RFC 9110 §8.8.3) made from a row's version, and the conditions on them."""

from fastapi import Request
from starlette.responses import Response

from shared.errors import PreconditionFailed


def etag(version: int) -> str:
    """The strong entity tag of a row's version."""
    return f'"{version}"'


def _matches(header: str, version: int, *, weak: bool) -> bool:
    tags = [tag.strip() for tag in header.split(",")]
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or etag(version) in tags


def check_if_match(request: Request, version: int) -> None:
    """Raise ``PreconditionFailed`` when ``If-Match`` names another version than the row's."""
    header = request.headers.get("if-match")
    if header is not None and not _matches(header, version, weak=False):
        raise PreconditionFailed(
            "The resource has changed since you read it; read it again and repeat the change.",
            headers={"ETag": etag(version)},
        )


def not_modified(request: Request, version: int) -> Response | None:
    """A 304 answer when ``If-None-Match`` names the row's version, else None."""
    header = request.headers.get("if-none-match")
    if header is not None and _matches(header, version, weak=True):
        return Response(status_code=304, headers={"ETag": etag(version)})
    return None
