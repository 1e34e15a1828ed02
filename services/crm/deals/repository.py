"""The deals table as a record table."""

from services.crm.deals.schemas import Deal
from services.crm.models import deals
from services.crm.records.repository import RecordTable

DEALS = RecordTable("deal", deals, tuple(Deal.model_fields))
