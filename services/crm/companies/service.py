"""Companies as a kind of record; their use cases are those of ``records.service``."""

from services.crm.companies.repository import COMPANIES
from services.crm.events import CompanyCreated, CompanyDeleted, CompanyRestored, CompanyUpdated
from services.crm.records.resource import Resource

COMPANY = Resource(
    COMPANIES,
    created=CompanyCreated,
    updated=CompanyUpdated,
    deleted=CompanyDeleted,
    restored=CompanyRestored,
)
