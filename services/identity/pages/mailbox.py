"""``/dev/mailbox``: in development, the mails that did not leave this machine; anywhere else there is no such page."""

import re
from ipaddress import IPv6Address, ip_address
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.identity.guard import PAGE
from services.identity.pages.html import PageRoute, page
from services.identity.web import Edge, EdgeDep
from shared.errors import NotFound
from shared.limits.anonymous import by_address
from shared.mail import Mailbox, Received, mailer_for

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# A page somewhere else can make its own name mean this machine (DNS rebinding); it cannot make its name this one.
_LOCAL_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
# The gateway lets only some of these pass. Any of them says that the loopback peer was a tunnel or a proxy.
_PROXY_HEADERS = ("via", "forwarded", "x-real-ip", "cdn-loop", "cf-ray")
_PROXY_PREFIX = "x-forwarded-"


@router.get("/dev/mailbox")
@by_address(PAGE)
async def show_mailbox(edge: EdgeDep, request: Request) -> Response:
    """The latest mails."""
    return page("mailbox", title="Mailbox", mails=await _mailbox(edge, request).newest())


@router.get("/dev/mailbox/{mail_id}")
@by_address(PAGE)
async def show_mail(edge: EdgeDep, request: Request, mail_id: UUID) -> Response:
    """One mail, its links made to be followed."""
    mail: Received | None = await _mailbox(edge, request).read(mail_id)
    if mail is None:
        raise NotFound
    return page("mail", title=mail.subject, mail=mail, base_url=edge.settings.base_url)


def _mailbox(edge: Edge, request: Request) -> Mailbox:
    mailer = mailer_for(edge.settings)
    if edge.settings.environment != "development" or not isinstance(mailer, Mailbox):
        raise NotFound
    if not _is_loopback(edge.address) or not _is_direct(request):
        raise NotFound
    return mailer


def _is_direct(request: Request) -> bool:
    """Whether the request was made to this machine by name, and nobody says to have passed it on."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or _LOCAL_HOST.fullmatch(hosts[0]) is None:
        return False
    return not any(name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX) for name in request.headers)


def _is_loopback(address: str | None) -> bool:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback
