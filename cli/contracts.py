"""``guardian contracts``: write ``openapi/`` from the code, or (``--check``) say what has drifted.

One OpenAPI document per service, the public one merged from them, one AsyncAPI document, and a JSON
Schema for every version of every event. All of it is committed, so that a change of a contract is seen
in review. A breaking change of an event that is published already is not written at all.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from cli.asyncapi import document as asyncapi_document
from cli.compatibility import BreakingChange, refusals
from cli.system import SERVICES, Service
from shared.events.registry import Declaration, declarations
from shared.http.problems import problem_response
from shared.settings import Settings

FOLDER = Path(__file__).parent.parent / "openapi"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_SECURITY = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "gdn_live_… or gdn_test_…",
        "description": "An API key; make one with POST /v1/api-keys.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "guardian_session",
        "description": "A browser's session, from POST /v1/sessions. It is named __Host-guardian_session over https.",
    },
}
_DESCRIPTION = """\
Everything Guardian offers over HTTP. Lists are pages of `limit` rows with a `next_cursor`. Errors are RFC 9457
problems with a stable `code` and a `request_id`. Every POST accepts an `Idempotency-Key`; reads carry an `ETag`,
and updates honour `If-Match`. A call that limits apply to is answered with `RateLimit` and `RateLimit-Policy`; what it
costs, and of which class it is, stands in `x-rate-limit`. A refused one says why, and in `Retry-After` for how long.
"""


_GATEWAY_ANSWERS = {
    "408": ("RequestTimeout", "The request did not arrive in time"),
    "431": ("HeadersTooLarge", "The request's headers are over the limit"),
    "502": ("BadGateway", "The service behind the gateway failed"),
    "504": ("UpstreamTimeout", "The service behind the gateway took too long"),
}
"""What the gateway itself may answer to any call, besides the problems of the services."""


def merged_document() -> dict[str, Any]:
    """The committed public document, as ``/openapi.json`` serves it."""
    loaded: dict[str, Any] = yaml.load((FOLDER / "openapi.yaml").read_text(), Loader=yaml.CSafeLoader)
    return loaded


def service_document(service: Service, settings: Settings) -> dict[str, Any]:
    """One service's OpenAPI document with the security of each operation written down."""
    document: dict[str, Any] = service.load("create_app")(settings).openapi()
    for path, method, operation in operations(document):
        public = (method.upper(), path) in service.public
        operation["security"] = [] if public else [{"apiKey": []}, {"session": []}]
        if public:
            operation["x-rate-limit"]["class"] = "anonymous"
        if public and "x-required-scope" in operation:
            operation["security"] = [{}, {"apiKey": []}, {"session": []}]
    document.setdefault("components", {})["securitySchemes"] = _SECURITY
    return document


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every (path, method, operation) of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def merge(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One document of all; raises ``ValueError`` when two services mean different things by one name."""
    merged: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Guardian", "version": "1", "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": {},
        "components": {},
    }
    merged["components"]["responses"] = {name: problem_response(text) for name, text in _GATEWAY_ANSWERS.values()}
    for name, document in documents.items():
        for _, _, operation in operations(document):
            for status, (answer, _) in _GATEWAY_ANSWERS.items():
                operation["responses"].setdefault(status, {"$ref": f"#/components/responses/{answer}"})
        _join(merged["paths"], document["paths"], f"{name}: path")
        for kind, items in document["components"].items():
            _join(merged["components"].setdefault(kind, {}), items, f"{name}: {kind}")
    return merged


def _join(target: dict[str, Any], items: Mapping[str, Any], what: str) -> None:
    for key, value in items.items():
        if target.setdefault(key, value) != value:
            raise ValueError(f"{what} {key!r} is defined differently by another service; rename it")


@lru_cache(maxsize=1)
def event_declarations() -> tuple[tuple[Service, Declaration], ...]:
    """Every event of every service that publishes."""
    found: list[tuple[Service, Declaration]] = []
    for service in SERVICES:
        if service.publishes:
            import_module(f"services.{service.name}.events")
            found += [(service, each) for each in declarations(f"services.{service.name}.")]
    return tuple(found)


def files(settings: Settings) -> dict[str, str]:
    """Every contract file's text by its path below ``openapi/``."""
    documents = {service.name: service_document(service, settings) for service in SERVICES}
    texts = {f"{name}.yaml": _yaml(document) for name, document in documents.items()}
    texts["openapi.yaml"] = _yaml(merge(documents))
    texts["asyncapi.yaml"] = _yaml(asyncapi_document(event_declarations()))
    for service, declaration in event_declarations():
        path = f"events/{service.name}/{declaration.type}.v{declaration.version}.json"
        texts[path] = json.dumps(declaration.schema(), indent=2, ensure_ascii=False) + "\n"
    return texts


def _yaml(document: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(document))  # no YAML aliases for shared objects
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def _offline_settings() -> Settings:
    # Contracts depend on the code alone, never on this machine's environment.
    return Settings.model_validate({"environment": "test", "database_url": "postgresql://nobody@127.0.0.1:1/none"})


def write() -> list[str]:
    """Write what differs and remove what no longer exists; the paths touched.

    Raises ``BreakingChange`` and writes nothing when a written event schema would change in a way that
    breaks its readers: a careless run does not overwrite what was promised.
    """
    wanted = files(_offline_settings())
    if broken := refusals(_written_events(), wanted):
        raise BreakingChange(broken)
    touched = drift(wanted)
    for path in touched:
        target = FOLDER / path
        if path in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(wanted[path])
        else:
            target.unlink()
    return touched


def broken() -> list[str]:
    """A sentence for each break with the written event schemas, and with those of the version before (git)."""
    wanted = files(_offline_settings())
    return list(dict.fromkeys([*refusals(_written_events(), wanted), *refusals(released_events(), wanted)]))


def _written_events() -> dict[str, str]:
    return {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.glob("events/*/*.json")}


def released_events() -> dict[str, str]:
    """The event schemas of ``origin/main``, or of the commit before where that is this one; none without git."""
    head = _git("rev-parse", "HEAD")
    main = _git("rev-parse", "--verify", "--quiet", "origin/main")
    base = main if main and main != head else _git("rev-parse", "--verify", "--quiet", "HEAD^")
    listed = _git("ls-tree", "-r", "--name-only", base.strip(), "openapi/events") if base else None
    return {
        path.removeprefix("openapi/"): text
        for path in (listed or "").splitlines()
        if (text := _git("show", f"{(base or '').strip()}:{path}")) is not None
    }


def _git(*arguments: str) -> str | None:
    """What git says, or None: there is no git in an image, and no earlier commit in a shallow clone."""
    try:
        command = ["git", "-C", str(FOLDER.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def drift(wanted: Mapping[str, str] | None = None) -> list[str]:
    """The contract files whose committed text is not what the code says, removed ones included."""
    wanted = files(_offline_settings()) if wanted is None else wanted
    present = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    changed = [path for path in wanted if path not in present or (FOLDER / path).read_text() != wanted[path]]
    return sorted([*changed, *(present - set(wanted))])
