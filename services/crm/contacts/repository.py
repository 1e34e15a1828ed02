"""The contacts table as a record table."""

from services.crm.contacts.schemas import Contact
from services.crm.models import contacts
from services.crm.records.repository import RecordTable

CONTACTS = RecordTable("contact", contacts, tuple(Contact.model_fields))
