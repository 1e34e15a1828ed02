"""The peer of ``make bench-api``: FastAPI and SQLAlchemy's ORM the way their documentation writes them.

One organisation, no gateway, no keys, no events, no row-level security: the same table, the same list and
get queries, the same insert committed, the same answer fields.
"""

import os
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, BigInteger, DateTime, Text, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ORGANIZATION = uuid.UUID(os.environ["BENCH_ORGANIZATION"])
engine = create_async_engine(os.environ["BENCH_DSN"], pool_size=4, max_overflow=0)
session_factory = async_sessionmaker(engine, expire_on_commit=False)


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Declarative base."""


class ContactRow(Base):
    """The contacts table."""

    __tablename__ = "contacts"
    __table_args__ = {"schema": "crm"}  # noqa: RUF012 (SQLAlchemy's way)

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    first_name: Mapped[str]
    last_name: Mapped[str]
    email: Mapped[str | None]
    phone: Mapped[str | None]
    job_title: Mapped[str | None]
    company_id: Mapped[uuid.UUID | None]
    owner_id: Mapped[uuid.UUID | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    custom_fields: Mapped[dict[str, Any]] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ContactIn(BaseModel):
    """The body of a new contact."""

    first_name: str = ""
    last_name: str = ""
    email: str | None = None
    phone: str | None = None
    job_title: str | None = None
    company_id: uuid.UUID | None = None
    owner_id: uuid.UUID | None = None
    tags: list[str] = []
    custom_fields: dict[str, Any] = {}


class ContactOut(ContactIn):
    """A contact."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    version: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


async def get_session() -> AsyncIterator[AsyncSession]:
    """A session per request."""
    async with session_factory() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI()


@app.get("/v1/contacts", response_model=list[ContactOut])
async def list_contacts(session: SessionDep, limit: int = 50) -> Any:
    """The newest contacts."""
    statement = (
        select(ContactRow)
        .where(ContactRow.organization_id == ORGANIZATION, ContactRow.deleted_at.is_(None))
        .order_by(ContactRow.created_at.desc(), ContactRow.id.desc())
        .limit(limit)
    )
    return (await session.execute(statement)).scalars().all()


@app.get("/v1/contacts/{contact_id}", response_model=ContactOut)
async def get_contact(session: SessionDep, contact_id: uuid.UUID) -> Any:
    """One contact."""
    statement = select(ContactRow).where(ContactRow.organization_id == ORGANIZATION, ContactRow.id == contact_id)
    contact = (await session.execute(statement)).scalar_one_or_none()
    if contact is None:
        raise HTTPException(status_code=404)
    return contact


@app.post("/v1/contacts", response_model=ContactOut, status_code=201)
async def create_contact(session: SessionDep, body: ContactIn) -> Any:
    """Make a contact."""
    contact = ContactRow(organization_id=ORGANIZATION, **body.model_dump())
    session.add(contact)
    await session.commit()
    await session.refresh(contact)
    return contact
