"""Rules of pipelines: what a list of stages must look like."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from shared.errors import FieldError, ValidationFailed
from shared.ids import NIL, new_id

StageKind = Literal["open", "won", "lost"]
_CLOSED = {"won": 100, "lost": 0}
DEFAULT_NAME = "Sales"
DEFAULT_STAGES: Sequence[Mapping[str, Any]] = (
    {"name": "Qualified", "kind": "open", "probability": 20},
    {"name": "Proposal", "kind": "open", "probability": 50},
    {"name": "Negotiation", "kind": "open", "probability": 75},
    {"name": "Won", "kind": "won", "probability": 100},
    {"name": "Lost", "kind": "lost", "probability": 0},
)


def numbered(wanted: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The stages of a pipeline in their order, those that are new with an id; raises ``ValidationFailed``.

    A stage with an id is one of ``present``, and keeps its probability when none is given. What is won or lost
    has the probability 100 or 0.
    """
    known = {stage["id"]: stage["probability"] for stage in present}
    errors = [*_unknown(wanted, known), *_repeated(wanted), *_probabilities(wanted)]
    if not any(stage["kind"] == "open" for stage in wanted):
        errors.append(
            FieldError(field="/stages", code="no_open_stage", message="deals begin at an open stage: add one")
        )
    if errors:
        raise ValidationFailed("See 'errors' for each offending stage.", errors=errors)
    return [
        {
            "id": stage.get("id") or new_id(),
            "name": stage["name"],
            "position": position,
            "probability": _probability(stage, known),
            "kind": stage["kind"],
        }
        for position, stage in enumerate(wanted)
    ]


def _probability(stage: Mapping[str, Any], known: Mapping[UUID, int]) -> int:
    if stage["kind"] in _CLOSED:
        return _CLOSED[stage["kind"]]
    given: int | None = stage.get("probability")
    return known.get(stage.get("id") or NIL, 0) if given is None else given


def _unknown(wanted: Sequence[Mapping[str, Any]], known: Collection[UUID]) -> list[FieldError]:
    return [
        FieldError(field=f"/stages/{position}/id", code="unknown_reference", message="is no stage of this pipeline")
        for position, stage in enumerate(wanted)
        if stage.get("id") is not None and stage["id"] not in known
    ]


def _repeated(wanted: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    errors = []
    for name in ("id", "name"):
        seen = set()
        for position, stage in enumerate(wanted):
            value = stage.get(name)
            value = value.casefold() if isinstance(value, str) else value
            if value is not None and value in seen:
                errors.append(
                    FieldError(
                        field=f"/stages/{position}/{name}", code="repeated", message=f"another stage has this {name}"
                    )
                )
            seen.add(value)
    return errors


def _probabilities(wanted: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    return [
        FieldError(
            field=f"/stages/{position}/probability",
            code="probability_does_not_fit",
            message=f"a stage of the kind {stage['kind']} has the probability {_CLOSED[stage['kind']]}",
        )
        for position, stage in enumerate(wanted)
        if stage["kind"] in _CLOSED and stage.get("probability") not in {None, _CLOSED[stage["kind"]]}
    ]


def touched(present: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """Stages that only fit when no deal is in them: they go away, or change between open, won and lost."""
    kinds = {stage["id"]: stage["kind"] for stage in wanted}
    return {stage["id"] for stage in present if kinds.get(stage["id"]) != stage["kind"]}
