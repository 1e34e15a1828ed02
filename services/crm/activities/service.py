"""Activities as a kind of record; their use cases are those of ``records.service``."""

from services.crm.activities.domain import require_content
from services.crm.activities.repository import ACTIVITIES
from services.crm.events import ActivityCreated, ActivityDeleted, ActivityRestored, ActivityUpdated
from services.crm.models import companies, contacts, deals
from services.crm.records.resource import Resource

ACTIVITY = Resource(
    ACTIVITIES,
    created=ActivityCreated,
    updated=ActivityUpdated,
    deleted=ActivityDeleted,
    restored=ActivityRestored,
    references={"contact_id": contacts, "company_id": companies, "deal_id": deals},
    rule=require_content,
)
