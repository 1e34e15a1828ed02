"""Renders problems outside the pipeline: for connections and for last resorts. They close the connection."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from http import HTTPStatus

from shared.errors import PROBLEM_JSON, Problem, problem_body

Headers = list[tuple[bytes, bytes]]

_SAFE: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


def problem_answer(problem: Problem) -> tuple[Headers, bytes]:
    """Headers and body of an answer that ends its connection."""
    request_id = secrets.token_hex(16)
    body = problem_body(problem, instance="/", request_id=request_id)
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
        *_SAFE,
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    return headers, body


def raw_problem(problem: Problem, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP/1.1 answer."""
    headers, body = problem_answer(problem)
    lines = [b"HTTP/1.1 %d %b\r\n" % (problem.status, HTTPStatus(problem.status).phrase.encode())]
    lines += [b"%b: %b\r\n" % pair for pair in (*default_headers, *headers)]
    return b"".join([*lines, b"\r\n", body])
