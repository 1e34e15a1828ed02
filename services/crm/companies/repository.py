"""The companies table as a record table."""

from services.crm.companies.schemas import Company
from services.crm.models import companies
from services.crm.records.repository import RecordTable

COMPANIES = RecordTable("company", companies, tuple(Company.model_fields))
