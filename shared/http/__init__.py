"""The HTTP edge of a service: application factory, problems, unit of work per request, pages, ETags."""

from shared.http.app import create_service
from shared.http.dependencies import BeginSession, PrincipalDep, RequestSession, SignedInUser, requires
from shared.http.etags import check_if_match, etag, not_modified
from shared.http.metering import MeterDep
from shared.http.pagination import Page, PageParams, decode_cursor, encode_cursor, page_response
from shared.http.problems import PROBLEM_RESPONSES
from shared.http.rates import rated
from shared.http.responses import json_response
from shared.http.route import UnitOfWorkRoute, service_router

__all__ = [
    "PROBLEM_RESPONSES",
    "BeginSession",
    "MeterDep",
    "Page",
    "PageParams",
    "PrincipalDep",
    "RequestSession",
    "SignedInUser",
    "UnitOfWorkRoute",
    "check_if_match",
    "create_service",
    "decode_cursor",
    "encode_cursor",
    "etag",
    "json_response",
    "not_modified",
    "page_response",
    "rated",
    "requires",
    "service_router",
]
