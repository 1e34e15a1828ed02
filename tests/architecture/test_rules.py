"""The rules hold in the whole code base, and each of them sees what it is there to see."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from cli import system
from services.identity.settings import IdentitySettings
from shared.settings import Settings

from . import rules
from .rules import EVERYWHERE, PRODUCTION, ROOT, Module, Rule, modules

_SERVICES = [service.name for service in system.SERVICES]


@pytest.fixture(scope="module")
def production() -> list[Module]:
    return modules(PRODUCTION)


@pytest.mark.parametrize("rule", [*EVERYWHERE, rules.chassis_without_services(_SERVICES)], ids=lambda r: r.__name__)
def test_the_code_keeps_the_rule(rule: Rule, production: list[Module]) -> None:
    assert [violation for module in production for violation in rule(module)] == []


def test_tests_keep_to_the_size_and_the_names() -> None:
    found = [v for m in modules(["tests"]) for rule in (rules.short_modules, rules.telling_names) for v in rule(m)]
    assert found == []


_LONG_FUNCTION = '"""Doc."""\ndef f():\n' + "    x = 1\n" * 40
_BAD: list[tuple[Rule, str, str]] = [
    (rules.short_modules, "gateway/a.py", "x = 1\n" * 401),
    (rules.short_functions, "gateway/a.py", _LONG_FUNCTION),
    (rules.telling_names, "services/crm/utils.py", ""),
    (rules.telling_names, "shared/common/thing.py", ""),
    (rules.no_base_http_middleware, "shared/a.py", "class A(BaseHTTPMiddleware): ..."),
    (rules.no_base_http_middleware, "shared/a.py", "class A(middleware.base.BaseHTTPMiddleware): ..."),
    (rules.commits_only_at_the_edge, "services/crm/service.py", "async def f(session): await session.commit()"),
    (rules.commits_only_at_the_edge, "shared/events/a.py", "async def f(self): await self._connection.commit()"),
    (rules.commits_only_at_the_edge, "services/crm/a.py", "async def f(c): await c.execute('commit;')"),
    (rules.time_from_the_clock, "services/crm/a.py", "from datetime import datetime\nx = datetime.now()"),
    (rules.time_from_the_clock, "shared/a.py", "import datetime\nx = datetime.datetime.utcnow()"),
    (rules.time_from_the_clock, "shared/a.py", "from datetime import date\nx = date.today()"),
    (rules.ids_from_one_place, "services/crm/a.py", "from uuid import uuid4"),
    (rules.ids_from_one_place, "services/crm/a.py", "import uuid\nx = uuid.uuid4()"),
    (rules.module_docstring, "shared/a.py", "x = 1"),
    (rules.chassis_without_services(["crm"]), "shared/a.py", "x = 'crm'"),
    (rules.chassis_without_services(["crm"]), "shared/a.py", "x = 'SELECT 1 FROM crm.contacts'"),
    (rules.chassis_without_services(["crm"]), "shared/a.py", "x = 'svc_crm'"),
    (rules.chassis_without_services(["crm"]), "shared/a.py", "from services.crm import events"),
]


@pytest.mark.parametrize("rule, path, source", _BAD)
def test_the_rule_sees_a_violation(rule: Rule, path: str, source: str) -> None:
    assert len(list(rule(Module.of(path, source)))) == 1


_GOOD: list[tuple[Rule, str, str]] = [
    (rules.short_functions, "gateway/a.py", 'def f():\n    """' + "Doc.\n" * 60 + '    """\n    return 1\n'),
    (rules.commits_only_at_the_edge, "shared/db/database.py", "async def f(c): await c.execute('COMMIT')"),
    (rules.commits_only_at_the_edge, "shared/events/consumer.py", "async def f(bus): await bus.commit()"),
    (rules.time_from_the_clock, "shared/clock.py", "from datetime import datetime\nx = datetime.now()"),
    (rules.time_from_the_clock, "services/crm/a.py", "from shared import clock\nx = clock.now()"),
    (rules.ids_from_one_place, "shared/ids.py", "from uuid import uuid4"),
    (rules.chassis_without_services(["identity"]), "shared/a.py", "'The identity.'\nx = 'guardian-identity'"),
    (rules.chassis_without_services(["crm"]), "services/crm/a.py", "x = 'crm'"),
]


@pytest.mark.parametrize("rule, path, source", _GOOD)
def test_the_rule_lets_good_code_pass(rule: Rule, path: str, source: str) -> None:
    assert list(rule(Module.of(path, source))) == []


def _variables() -> dict[str, str]:
    """Every environment variable the settings read, with its description."""
    found = {}
    for name, info in Settings.model_fields.items():
        alias = info.validation_alias
        found[alias if isinstance(alias, str) else f"GUARDIAN_{name.upper()}"] = info.description or ""
    for name, info in IdentitySettings.model_fields.items():
        found[f"GUARDIAN_IDENTITY_{name.upper()}"] = info.description or ""
    return found


def test_the_example_environment_documents_every_variable_and_nothing_else() -> None:
    text = (ROOT / ".env.example").read_text()
    documented = re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE)
    assert sorted(documented) == sorted(_variables())
    for name, description in _variables().items():
        assert description, f"{name} has no description"
        assert re.search(rf"^# .+\n(?:# .+\n)*#?\s?{name}=", text, re.MULTILINE), f"{name} has no comment above it"


def _imported(module: Module) -> set[str]:
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PRODUCTION)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(group: str) -> set[str]:
    text = (ROOT / "requirements" / f"{group}.in").read_text()
    return {_normal(name) for name in re.findall(r"^([a-zA-Z][\w.-]*)", text, re.MULTILINE)}


def test_what_the_platform_imports_is_what_the_platform_installs(production: list[Module]) -> None:
    runtime = [module for module in production if not module.is_in("shared/testing")]
    distributions = packages_distributions()
    missing = {
        f"{module.path} imports {name}"
        for module in runtime
        for name in _imported(module)
        if not {_normal(each) for each in distributions.get(name, [name])} & _declared("base")
    }
    assert missing == set()


@pytest.mark.parametrize("path", sorted(Path(ROOT / "requirements").glob("*.txt")), ids=lambda p: p.name)
def test_the_locks_carry_hashes_and_no_addresses(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert len(re.findall(r"^[a-zA-Z0-9].*==.*\\$", text, re.MULTILINE)) == len(
        re.findall(r"^[a-zA-Z0-9].*==", text, re.MULTILINE)
    )
