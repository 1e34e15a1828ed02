"""Bodies and list parameters of the pipeline operations."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from services.crm.pipelines.domain import StageKind
from services.crm.records.schemas import Version
from shared.http import Page, PageParams
from shared.http.fields import Input, Name, omitted

Probability = Annotated[int, Field(strict=True, ge=0, le=100, description="in percent; 100 when won, 0 when lost")]


class NewStage(Input):
    """A stage of a new pipeline."""

    name: Name
    kind: StageKind = "open"
    probability: Probability | None = None


class StageChange(NewStage):
    """A stage as it shall be: with the id of one the pipeline has, or a new one without."""

    id: UUID | None = None


class PipelineCreate(Input):
    """A new pipeline; an organisation's first one is its default."""

    name: Name
    stages: list[NewStage] = Field(min_length=1, max_length=50, description="in order")
    is_default: bool = False


class PipelineChange(Input):
    """What to change; a field that is left out keeps its value."""

    name: Name = omitted()
    stages: list[StageChange] = Field(
        default_factory=list, min_length=1, max_length=50, description="all of them in order; one left out is removed"
    )
    is_default: Literal[True] = Field(
        default_factory=lambda: True, description="deals without a pipeline begin here, instead of the default so far"
    )


class Stage(BaseModel):
    """A stage; ``kind`` says whether a deal in it is open, won or lost."""

    id: UUID
    name: str
    kind: StageKind
    probability: int


class Pipeline(BaseModel):
    """A pipeline with its stages in order."""

    id: UUID
    name: str
    is_default: bool
    stages: list[Stage]
    version: Version
    created_at: datetime
    updated_at: datetime


class PipelinePage(Page[Pipeline]):
    """A page of pipelines."""


class PipelineQuery(PageParams):
    """Parameters of the list."""
