"""The documents say what the code does: edges, scopes, decisions, the size of the chassis."""

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import get_args

import pytest

from cli.contracts import merged_document, operations
from cli.system import SERVICES
from services.identity.domain import ALL_SCOPES
from shared.limits.policies import RouteClass

from .rules import ROOT

CHASSIS_LINES = 9_500
DECISIONS = sorted((ROOT / "docs/adr").glob("0*.md"))


def _edges() -> dict[str, tuple[str, str, str]]:
    """Called by, publishes and consumes of every service, from the table in docs/architecture.md."""
    found = {}
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0] not in {"Service", "---"}:
            found[cells[0]] = (cells[2], cells[3], cells[4])
    return found


def test_the_edges_are_the_declared_ones() -> None:
    topics = {service.name: service.topic for service in SERVICES}
    declared = {
        service.name: (
            ", ".join(service.callers),
            service.topic if service.publishes else "–",
            ", ".join(topics[name] for name in service.consumes) or "–",
        )
        for service in SERVICES
    }
    assert _edges() == declared


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_introduces_itself(service: object) -> None:
    name = service.name  # type: ignore[attr-defined]
    text = ast.get_docstring(ast.parse((ROOT / "services" / name / "__init__.py").read_text())) or ""
    for phrase in ("I own", "I publish", "I consume", "Who may call me"):
        assert phrase.lower() in text.lower(), f"services/{name}/__init__.py does not say: {phrase}"


def test_every_scope_an_operation_asks_for_can_be_held() -> None:
    asked = {operation.get("x-required-scope") for _, _, operation in operations(merged_document())} - {None}
    assert asked
    assert asked <= set(ALL_SCOPES)


def test_every_public_operation_exists() -> None:
    known = {(method.upper(), path) for path, method, _ in operations(merged_document())}
    pages = {"/verify-email", "/reset-password", "/accept-invitation", "/dev/mailbox", "/dev/mailbox/{mail}"}
    declared = {operation for service in SERVICES for operation in service.public if operation[1] not in pages}
    assert declared <= known


def test_every_operation_says_what_it_costs() -> None:
    public = {operation for service in SERVICES for operation in service.public}
    for path, method, operation in operations(merged_document()):
        rate = operation["x-rate-limit"]
        assert rate["cost"] >= 0, (method, path)
        assert rate["class"] in get_args(RouteClass), (method, path)
        assert (rate["class"] == "anonymous") == ((method.upper(), path) in public), (method, path)
        assert {"429", "503"} <= set(operation["responses"]), (method, path)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_what_enforces_it_and_is_listed(path: Path) -> None:
    text = path.read_text()
    assert "**Decision.**" in text
    assert "**Enforced by**" in text
    assert len(text.splitlines()) <= 60, "a decision is one page"
    assert path.name in (ROOT / "docs/adr/README.md").read_text()


def test_documents_link_to_files_that_exist() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def _code_lines(path: Path) -> int:
    """Lines of code: without blank lines, comments and docstrings."""
    source = path.read_text()
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for token in tokens if token.type not in blank for line in range(token.start[0], token.end[0] + 1)}
    return len(code - strings)


def test_the_chassis_stays_small() -> None:
    sizes = {str(path.relative_to(ROOT)): _code_lines(path) for path in (ROOT / "shared").rglob("*.py")}
    assert sum(sizes.values()) <= CHASSIS_LINES, sorted(sizes.items(), key=lambda each: -each[1])[:10]
