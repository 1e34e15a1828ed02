"""Use cases of overrides. Each goes with its policy, which the caller holds (see ``policies.service.lock``)."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.ratelimit.events import LimitOverrideCreated, LimitOverrideDeleted, LimitOverrideUpdated
from services.ratelimit.overrides import domain, repository
from services.ratelimit.overrides.schemas import LimitOverrideChange, LimitOverrideCreate, LimitOverrideQuery
from services.ratelimit.policies import service as policies
from services.ratelimit.policies.domain import SILENT, Editor, Exemption, changes
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, FieldError, NotFound, ValidationFailed
from shared.events import Event, publish
from shared.http.pagination import decode_moment_cursor
from shared.ids import new_id

SORT = "created_at"
Row = Mapping[str, Any]
_FIELDS = ("pattern", "quota", "note", "expires_at")


async def create(session: Session, editor: Editor, policy: Row, body: LimitOverrideCreate) -> dict[str, Any]:
    """Make an override of a held policy.

    Raises ``ValidationFailed`` for a pattern that fits nothing or a past expiry, and ``Conflict`` for a pattern that is
    taken, one override too many, more than a plan gives, or one with which the policy would soon refuse the editor's own
    calls (unless forced).
    """
    organization_id, now = editor.principal.organization_id, clock.now()
    row: dict[str, Any] = {
        "id": new_id(),
        "policy_id": policy["id"],
        **body.model_dump(exclude={"force"}),
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    await _check(session, policy, row, organization_id, _FIELDS)
    if await repository.count(session, organization_id, policy["id"]) >= domain.MOST_OVERRIDES:
        raise Conflict(
            f"The policy has {domain.MOST_OVERRIDES} overrides already, which is the most one can have; delete some.",
            code="too_many_overrides",
        )
    if not body.force:
        await _check_editor(session, editor, policy, added=row)
    await repository.add(session, {**row, "organization_id": organization_id})
    made = changes({}, {name: row[name] for name in _FIELDS})
    await policies.record(session, editor.principal, policy, "override_created", made, row)
    content = {name: row[name] for name in ("policy_id", *_FIELDS)}
    event = LimitOverrideCreated.model_validate({**content, "policy_name": policy["name"]})
    _emit(session, editor.principal, event, row)
    return row


async def _check(session: Session, policy: Row, row: Row, organization_id: UUID, changed: Sequence[str]) -> None:
    """Whether what is new of an override may be."""
    errors = []
    shape = domain.subject_shape(policy["per"])
    if "pattern" in changed and not domain.can_both_fit(row["pattern"], shape):
        message = f"fits nothing that the policy counts by; that looks like '{shape}'"
        errors.append(FieldError(field="/pattern", code="fits_nothing", message=message))
    if "expires_at" in changed and row["expires_at"] is not None and row["expires_at"] <= clock.now():
        errors.append(FieldError(field="/expires_at", code="expires_in_the_past", message="must lie in the future"))
    if errors:
        raise ValidationFailed("See 'errors' for each offending field.", errors=errors)
    if policy["plan"] is not None and "quota" in changed and row["quota"] >= policy["quota"]:
        raise Conflict(
            f"The plan '{policy['plan']}' gives {policy['quota']}; an override of its policies can only give less.",
            code="plan_policy",
        )
    if await repository.having(session, organization_id, policy["id"], row["pattern"]) not in {None, row["id"]}:
        raise Conflict(
            f"The policy has an override for '{row['pattern']}' already; change that one.",
            code="pattern_taken",
            errors=[FieldError(field="/pattern", code="pattern_taken", message="another override has this pattern")],
        )


async def _check_editor(
    session: Session, editor: Editor, policy: Row, *, added: Row | None = None, removed: Row | None = None
) -> None:
    """Whether the policy lets the editor call on, now and whenever one expires, with an override more or less."""
    found = await repository.active(session, editor.principal.organization_id, policy["id"])
    kept = [each for each in found if removed is None or each.pattern != removed["pattern"]]
    if added is not None:
        kept.append(Exemption(added["pattern"], added["quota"], added["expires_at"]))
    advice = domain.REMOVAL_ADVICE if added is None else domain.ADVICE
    await policies.check_editor(session, editor, policy, kept, advice)


def _emit(session: Session, principal: Principal, event: Event, row: Row) -> None:
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)


async def get(session: Session, principal: Principal, policy: Row, override_id: UUID) -> Record:
    """An override of a policy; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, policy["id"], override_id)
    if row is None:
        raise NotFound("The policy has no override with this id.")
    return row


async def change(
    session: Session, editor: Editor, policy: Row, before: Row, body: LimitOverrideChange
) -> dict[str, Any]:
    """Change an override of a held policy; raises as ``create`` does."""
    organization_id = editor.principal.organization_id
    wanted = body.model_dump(exclude_unset=True, exclude={"force"})
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return dict(before)
    row = {**before, **changed, "version": before["version"] + 1, "updated_at": clock.now()}
    await _check(session, policy, row, organization_id, list(changed))
    if not body.force and not SILENT.issuperset(changed):
        await _check_editor(session, editor, policy, added=row, removed=before)
    values = {name: row[name] for name in (*changed, "updated_at")}
    await repository.change(session, organization_id, policy["id"], before["id"], values)
    differences = changes({name: before[name] for name in changed}, changed)
    await policies.record(session, editor.principal, policy, "override_updated", differences, row)
    content = {"policy_id": policy["id"], "policy_name": policy["name"], "pattern": row["pattern"]}
    _emit(session, editor.principal, LimitOverrideUpdated.model_validate({**content, "changes": differences}), row)
    return row


async def delete(session: Session, editor: Editor, policy: Row, before: Row, *, force: bool) -> None:
    """Delete an override of a held policy; raises ``Conflict`` when the editor needs it (unless forced)."""
    if not force:
        await _check_editor(session, editor, policy, removed=before)
    await repository.remove(session, editor.principal.organization_id, policy["id"], before["id"])
    gone = changes({name: before[name] for name in _FIELDS}, {})
    await policies.record(session, editor.principal, policy, "override_deleted", gone, before)
    event = LimitOverrideDeleted(policy_id=policy["id"], policy_name=policy["name"], pattern=before["pattern"])
    _emit(session, editor.principal, event, {**before, "version": before["version"] + 1})


async def page(session: Session, principal: Principal, policy: Row, query: LimitOverrideQuery) -> list[Record]:
    """One override more than the page holds, in the order they were made, expired ones among them."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.page(session, principal.organization_id, policy["id"], after, query.limit + 1)
