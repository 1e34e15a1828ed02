"""Rules of the code base that imports cannot express, as functions from a module's source to its violations."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCTION = ("cli", "deploy", "gateway", "services", "shared")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file; ``path`` is relative to the project."""

    path: Path
    source: str
    tree: ast.Module = field(compare=False, repr=False)

    @classmethod
    def of(cls, path: str, source: str) -> "Module":
        return cls(Path(path), source, ast.parse(source))

    def is_in(self, *folders: str) -> bool:
        return any(self.path.is_relative_to(folder) for folder in folders)


Rule = Callable[[Module], Iterator[str]]


def modules(roots: Sequence[str]) -> list[Module]:
    """Every Python file under ``roots``."""
    paths = sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))
    return [Module.of(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


def short_modules(module: Module) -> Iterator[str]:
    lines = len(module.source.splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{module.path}: {lines} lines (at most {MAX_MODULE_LINES}): split it by topic"


def short_functions(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, _Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
            if lines > MAX_FUNCTION_LINES:
                yield f"{module.path}:{node.lineno} {node.name}: {lines} lines (at most {MAX_FUNCTION_LINES})"


def _docstring_lines(node: _Function) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def telling_names(module: Module) -> Iterator[str]:
    if module.path.stem in VAGUE_NAMES or VAGUE_NAMES & set(module.path.parts):
        yield f"{module.path}: name it for what it holds"


def no_base_http_middleware(module: Module) -> Iterator[str]:
    """It buffers, breaks context variables and costs a task per request; write plain ASGI."""
    for node in ast.walk(module.tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name == "BaseHTTPMiddleware":
            yield f"{module.path}:{getattr(node, 'lineno', 0)} BaseHTTPMiddleware"


_TRANSACTIONS = frozenset({"session", "connection", "conn", "transaction", "tx"})


def commits_only_at_the_edge(module: Module) -> Iterator[str]:
    """``session.commit()`` or a literal COMMIT anywhere but in shared/db."""
    if module.is_in("shared/db"):
        return
    for node in ast.walk(module.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        target = node.func.value
        name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
        literal = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        says_commit = isinstance(literal, str) and literal.strip().rstrip(";").upper() == "COMMIT"
        if (node.func.attr == "commit" and name.strip("_") in _TRANSACTIONS) or says_commit:
            yield f"{module.path}:{node.lineno} commits; the unit of work is committed by shared.db"


def time_from_the_clock(module: Module) -> Iterator[str]:
    """``datetime.now()`` and relatives anywhere but in shared/clock.py."""
    if module.path == Path("shared/clock.py"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if name in {"datetime", "date"}:
                yield f"{module.path}:{node.lineno} {name}.{node.attr}: use shared.clock.now()"


def ids_from_one_place(module: Module) -> Iterator[str]:
    """``uuid4`` and relatives anywhere but in shared/ids.py."""
    if module.path == Path("shared/ids.py"):
        return
    for node in ast.walk(module.tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        for name in names:
            if name in {"uuid1", "uuid4", "uuid6", "uuid7"}:
                yield f"{module.path}:{getattr(node, 'lineno', 0)} {name}: use shared.ids.new_id()"


def chassis_without_services(names: Sequence[str]) -> Rule:
    """shared/ names no service: not as a value, a role, a package, a topic or a schema in SQL."""
    either = "|".join(names)
    pattern = re.compile(rf"(?:services\.|svc_|guardian\.)(?:{either})\b|\b(?:{either})\.[a-z_]+(?:\(|\s|$)")

    def rule(module: Module) -> Iterator[str]:
        if not module.is_in("shared"):
            return
        documentation = _docstrings(module.tree)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
                if node.value in names or pattern.search(node.value):
                    yield f"{module.path}:{node.lineno} names a service: {node.value[:60]!r}"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                imported = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
                if imported.split(".")[0] == "services":
                    yield f"{module.path}:{node.lineno} imports {imported}"

    return rule


def _docstrings(tree: ast.Module) -> set[ast.Constant]:
    """Every string that stands alone as a statement."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def module_docstring(module: Module) -> Iterator[str]:
    is_package_marker = module.path.name == "__init__.py" and not module.source.strip()
    if ast.get_docstring(module.tree) is None and not is_package_marker:
        yield f"{module.path}: says nothing about what it is for (module docstring)"


EVERYWHERE: tuple[Rule, ...] = (
    short_modules, short_functions, telling_names, no_base_http_middleware, commits_only_at_the_edge,
    time_from_the_clock, ids_from_one_place, module_docstring,
)  # fmt: skip
