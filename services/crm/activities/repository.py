"""The activities table as a record table."""

from sqlalchemy import Boolean, bindparam

from services.crm.activities.schemas import Activity
from services.crm.models import activities
from services.crm.records.repository import RecordTable

ACTIVITIES = RecordTable(
    "activity",
    activities,
    tuple(Activity.model_fields),
    conditions={"done": lambda columns: columns.completed_at.is_not(None) == bindparam("done", type_=Boolean)},
)
