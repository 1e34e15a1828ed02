"""Contacts as a kind of record; their use cases are those of ``records.service``."""

from services.crm.contacts.domain import require_identifiable
from services.crm.contacts.repository import CONTACTS
from services.crm.events import ContactCreated, ContactDeleted, ContactRestored, ContactUpdated
from services.crm.models import companies
from services.crm.records.resource import Resource

CONTACT = Resource(
    CONTACTS,
    created=ContactCreated,
    updated=ContactUpdated,
    deleted=ContactDeleted,
    restored=ContactRestored,
    references={"company_id": companies},
    rule=require_identifiable,
)
