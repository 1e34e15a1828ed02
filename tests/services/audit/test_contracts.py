"""What the audit log reads of other services' events, held to what they publish."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.system import AUDIT
from services.audit import domain
from services.audit.service import entry_of
from shared import clock
from shared.ids import new_id
from tests.services.audit.support import make_event

EVENTS = Path(__file__).parents[3] / "openapi" / "events"
SCHEMAS = [path for source in AUDIT.consumes for path in sorted((EVENTS / source).glob("*.json"))]


def examples(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text()).get("examples", [])
    return found


def test_every_published_type_is_understood_in_its_newest_version() -> None:
    published: dict[str, int] = {}
    for path in SCHEMAS:
        event_type, _, version = path.stem.rpartition(".v")
        published[event_type] = max(published.get(event_type, 0), int(version))
    assert published, "no contracts were found"
    assert published == domain.UNDERSTOOD


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_every_published_example_can_be_read_with_what_a_newer_publisher_adds(path: Path) -> None:
    for example in examples(path):
        payload = domain.Payload.model_validate({**example, "added_later": {"n": 1}})
        assert (payload.model_extra or {})["added_later"] == {"n": 1}
        entry = entry_of(make_event(new_id(), path.stem.rpartition(".v")[0], data=example), clock.now())
        # Nothing is lost on the way into the log.
        changes = {} if entry["changes"] is None else {"changes": entry["changes"]}
        assert {**entry["data"], **changes} == example


def test_the_examples_say_what_changed() -> None:
    changed = [path.stem for path in SCHEMAS if any("changes" in example for example in examples(path))]
    assert "contact.updated.v1" in changed
