"""``/dev/mailbox``: in development, the mails that did not leave this machine; anywhere else there is no such page."""

from ipaddress import IPv6Address, ip_address
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from services.identity.pages.html import page
from services.identity.web import Edge, EdgeDep
from shared.errors import NotFound
from shared.http import UnitOfWorkRoute
from shared.mail import Mailbox, Received, mailer_for

router = APIRouter(route_class=UnitOfWorkRoute, include_in_schema=False)


@router.get("/dev/mailbox")
async def show_mailbox(edge: EdgeDep) -> Response:
    """The latest mails."""
    return page("mailbox", title="Mailbox", mails=await _mailbox(edge).newest())


@router.get("/dev/mailbox/{mail_id}")
async def show_mail(edge: EdgeDep, mail_id: UUID) -> Response:
    """One mail, its links made to be followed."""
    mail: Received | None = await _mailbox(edge).read(mail_id)
    if mail is None:
        raise NotFound
    return page("mail", title=mail.subject, mail=mail, base_url=edge.settings.base_url)


def _mailbox(edge: Edge) -> Mailbox:
    mailer = mailer_for(edge.settings)
    if edge.settings.environment != "development" or not isinstance(mailer, Mailbox) or not _is_here(edge.address):
        raise NotFound
    return mailer


def _is_here(address: str | None) -> bool:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback
