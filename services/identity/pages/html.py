"""Pages: escaped templates, one style sheet inline, allowed by its hash and nothing else."""

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import Response

from services.identity.domain import MIN_PASSWORD
from shared.errors import TooManyRequests
from shared.http import UnitOfWorkRoute
from shared.http.route import Handler

_FOLDER = Path(__file__).parent / "templates"
_STYLE = (_FOLDER / "page.css").read_text()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True)
_environment.globals["style"] = _STYLE
_environment.globals["min_password"] = MIN_PASSWORD


def page(template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """A page, never stored: its address or its body holds a token."""
    body = _environment.get_template(f"{template}.html").render(**values)
    fixed = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return Response(body, status, {**fixed, **(headers or {})}, media_type="text/html")


class PageRoute(UnitOfWorkRoute):
    """A route whose refusals people read: too many attempts are a page as well."""

    def get_route_handler(self) -> Handler:
        """The chassis's handler, wrapped."""
        handler = super().get_route_handler()

        async def run(request: Request) -> Response:
            try:
                return await handler(request)
            except TooManyRequests as problem:
                return message(problem.title, problem.detail or "", problem.status, problem.headers)

        return run


def message(title: str, text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A page that only says something."""
    return page("message", status, headers, title=title, text=text)
