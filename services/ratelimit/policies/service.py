"""Use cases of policies. Whoever changes an organisation's limits holds all of them until the transaction ends."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.ratelimit.events import LimitPolicyCreated, LimitPolicyDeleted, LimitPolicyReset, LimitPolicyUpdated
from services.ratelimit.overrides import repository as overrides
from services.ratelimit.policies import domain, repository
from services.ratelimit.policies.domain import Editor, Exemption
from services.ratelimit.policies.schemas import (
    LimitPolicyChange,
    LimitPolicyCreate,
    LimitPolicyHistoryQuery,
    LimitPolicyQuery,
)
from shared import clock
from shared.auth import Principal
from shared.db import Session
from shared.errors import Conflict, FieldError, NotFound, ValidationFailed
from shared.events import Event, publish
from shared.http.pagination import decode_moment_cursor, decode_name_cursor
from shared.ids import new_id

SORT = "plan,name"
HISTORY_SORT = "-occurred_at"
Row = Mapping[str, Any]


async def create(session: Session, editor: Editor, body: LimitPolicyCreate) -> dict[str, Any]:
    """Make a policy.

    Raises ``ValidationFailed`` for fields that do not fit together, and ``Conflict`` for a name that is taken, one
    policy too many, or one that would soon refuse the editor's own calls (unless forced).
    """
    organization_id, now = editor.principal.organization_id, clock.now()
    await repository.hold(session, organization_id)
    row: dict[str, Any] = {
        "id": new_id(),
        **_flat(body.model_dump(exclude={"force"})),
        "epoch": 1,
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "plan": None,
    }
    await _check(session, row)
    await _check_name(session, editor, row)
    if await repository.count(session, organization_id) >= domain.MOST_POLICIES:
        raise Conflict(
            f"There are {domain.MOST_POLICIES} policies already, which is the most an organisation can have.",
            code="too_many_policies",
        )
    if not body.force:
        await check_editor(session, editor, row, (), domain.POLICY_ADVICE, anew=True)
    await repository.add(session, {**row, "organization_id": organization_id})
    made = {name: row[name] for name in repository.FIELDS}
    await record(session, editor.principal, row, "created", domain.changes({}, made))
    content = {name: value for name, value in shown(row).items() if name in LimitPolicyCreated.model_fields}
    _emit(session, editor.principal, LimitPolicyCreated.model_validate(content), row)
    return row


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a body as columns."""
    match = values.pop("match", {})
    return {**values, **match}


async def _check(session: Session, row: Row) -> None:
    errors = domain.problems(row)
    if row["timezone"] != "UTC" and not await repository.is_timezone(session, row["timezone"]):
        message = "there is no such time zone; name one as in 'Europe/Berlin'"
        errors.append(FieldError(field="/timezone", code="unknown_timezone", message=message))
    if errors:
        raise ValidationFailed("See 'errors' for each offending field.", errors=errors)


async def _check_name(session: Session, editor: Editor, row: Row) -> None:
    organization_id = editor.principal.organization_id
    if await repository.is_taken(session, organization_id, row["name"], row["id"], editor.default_plan):
        message = "another policy, of yours or of your plan, has this name"
        raise Conflict(
            f"There is a policy named '{row['name']}' already.",
            code="name_taken",
            errors=[FieldError(field="/name", code="name_taken", message=message)],
        )


async def check_editor(
    session: Session, editor: Editor, row: Row, exemptions: Sequence[Exemption], advice: str, *, anew: bool = False
) -> None:
    """Raise ``Conflict`` (``would_refuse_you``) for a policy that would soon refuse the calls the editor could undo it with.

    ``exemptions`` are the overrides it will have, ``advice`` is what to do about it. One that counts ``anew`` has used
    nothing of its window yet, whatever was called before.
    """
    if row["shadow"] or not row["enabled"]:
        return
    policy = domain.policy_of(row, editor.principal.organization_id)
    counted = domain.calls(policy, exemptions, editor)
    used: Mapping[str, int] = {}
    if counted and policy.window is not None and not anew:
        used = await repository.used(session, policy, sorted({call.subject for call in counted}))
    reason = domain.refusal(policy, counted, used)
    if reason is not None:
        raise Conflict(f"{reason} {advice}", code="would_refuse_you")


def shown(row: Row) -> dict[str, Any]:
    """A policy as the API shows it."""
    found = {name: value for name, value in row.items() if name not in domain.MATCH_FIELDS}
    return {**found, "match": {name: row[name] for name in domain.MATCH_FIELDS}}


def _emit(session: Session, principal: Principal, event: Event, row: Row) -> None:
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)


async def record(
    session: Session,
    principal: Principal,
    policy: Row,
    action: str,
    changes: Mapping[str, Any],
    override: Row | None = None,
) -> None:
    """Write what happened to a policy, or to one of its overrides, into its history."""
    row = {
        "organization_id": principal.organization_id,
        "id": new_id(),
        "policy_id": policy["id"],
        "policy_name": policy["name"],
        "override_id": override["id"] if override else None,
        "pattern": override["pattern"] if override else None,
        "action": action,
        "actor_type": principal.actor_type,
        "actor_id": principal.actor_id,
        "request_id": principal.request_id or None,
        "changes": changes,
        "occurred_at": clock.now(),
    }
    await repository.add_change(session, row)


async def get(session: Session, principal: Principal, policy_id: UUID, default_plan: str) -> dict[str, Any]:
    """A policy of the caller's organisation or of its plan; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, policy_id, default_plan)
    if row is None:
        raise NotFound("There is no policy with this id.")
    return {name: value for name, value in row.items() if name != "position"}


async def lock(session: Session, editor: Editor, policy_id: UUID) -> dict[str, Any]:
    """A policy, held with all limits of the organisation until the transaction ends; raises ``NotFound``."""
    await repository.hold(session, editor.principal.organization_id)
    return await get(session, editor.principal, policy_id, editor.default_plan)


def require_own(policy: Row) -> None:
    """Raise ``Conflict`` (``plan_policy``) for a policy that comes with the plan."""
    if policy["plan"] is not None:
        raise Conflict(
            f"This policy comes with the plan '{policy['plan']}' and cannot be changed. Make one of your own beside it, "
            "or an override with a lower quota.",
            code="plan_policy",
        )


async def change(session: Session, editor: Editor, before: Row, body: LimitPolicyChange) -> dict[str, Any]:
    """Change a held policy; raises as ``create`` does, and ``Conflict`` (``plan_policy``)."""
    require_own(before)
    wanted = _flat(body.model_dump(exclude_unset=True, exclude={"force"}))
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return dict(before)
    after = {**before, **changed}
    await _check(session, after)
    if "name" in changed:
        await _check_name(session, editor, after)
    if domain.counts_anew(changed):
        after["epoch"] = before["epoch"] + 1
    if not body.force and not domain.SILENT.issuperset(changed):
        exemptions = await overrides.active(session, editor.principal.organization_id, before["id"])
        anew = domain.counts_anew(changed)
        await check_editor(session, editor, after, exemptions, domain.POLICY_ADVICE, anew=anew)
    changes = domain.changes({name: before[name] for name in changed}, changed)
    row = await _write(session, editor.principal, before, after, [*changed, "epoch"])
    await record(session, editor.principal, row, "updated", changes)
    event = LimitPolicyUpdated.model_validate({"name": row["name"], "epoch": row["epoch"], "changes": changes})
    _emit(session, editor.principal, event, row)
    return row


async def _write(
    session: Session, principal: Principal, before: Row, after: Row, names: Sequence[str]
) -> dict[str, Any]:
    row = {**after, "version": before["version"] + 1, "updated_at": clock.now()}
    changed = {name: row[name] for name in (*names, "updated_at")}
    await repository.change(session, principal.organization_id, before["id"], changed)
    return row


async def reset(session: Session, principal: Principal, before: Row) -> dict[str, Any]:
    """Let a held policy count from zero; raises ``Conflict`` (``plan_policy``)."""
    require_own(before)
    row = await _write(session, principal, before, {**before, "epoch": before["epoch"] + 1}, ["epoch"])
    epochs = {"epoch": before["epoch"]}, {"epoch": row["epoch"]}
    await record(session, principal, row, "reset", domain.changes(*epochs))
    _emit(session, principal, LimitPolicyReset(name=row["name"], epoch=row["epoch"]), row)
    return row


async def delete(session: Session, principal: Principal, before: Row) -> None:
    """Delete a held policy with its overrides; raises ``Conflict`` (``plan_policy``)."""
    require_own(before)
    await repository.remove(session, principal.organization_id, before["id"])
    gone = {name: before[name] for name in repository.FIELDS}
    await record(session, principal, before, "deleted", domain.changes(gone, {}))
    _emit(session, principal, LimitPolicyDeleted(name=before["name"]), {**before, "version": before["version"] + 1})


async def page(
    session: Session, principal: Principal, default_plan: str, query: LimitPolicyQuery
) -> list[dict[str, Any]]:
    """One policy more than the page holds, with its ``position`` in the list."""
    after = decode_name_cursor(query.cursor, SORT) if query.cursor else None
    rows = await repository.page(session, principal.organization_id, default_plan, after, query.limit + 1)
    return [shown(row) for row in rows]


async def history(
    session: Session, principal: Principal, default_plan: str, policy_id: UUID, query: LimitPolicyHistoryQuery
) -> list[dict[str, Any]]:
    """One change more than the page holds, newest first; raises ``NotFound`` for a policy that never was."""
    after = decode_moment_cursor(query.cursor, HISTORY_SORT) if query.cursor else None
    rows = await repository.history(session, principal.organization_id, policy_id, after, query.limit + 1)
    if not rows:
        await get(session, principal, policy_id, default_plan)
    return [_entry(row) for row in rows]


def _entry(row: Row) -> dict[str, Any]:
    entry = dict(row)
    entry["actor"] = {"type": entry.pop("actor_type"), "id": entry.pop("actor_id")}
    override_id, pattern = entry.pop("override_id"), entry.pop("pattern")
    entry["override"] = {"id": override_id, "pattern": pattern} if override_id else None
    return entry
