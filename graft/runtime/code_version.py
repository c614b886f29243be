"""A hash of all of Graft's code that a function depends on, so that caching goes by code too.

Read from the source, not run: from a definition follow each name that it uses to the definition of that
name in Graft, and so on. A docstring, a comment or a helper that the function never reaches does not
count; a helper of a helper does. Methods are counted with their class.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("graft", "steps")
Definition = tuple[str, str]  # a module and a name at its top level


def code_version(*roots: Callable[..., object] | type) -> str:
    """SHA-256 of these functions or classes and of every definition of Graft that they reach."""
    digest = hashlib.sha256()
    for module, name in sorted(reached((root.__module__, root.__name__) for root in roots)):
        digest.update(f"{module}.{name}:{_code(module, name)}\n".encode())
    return digest.hexdigest()


def reached(roots: Iterator[Definition]) -> set[Definition]:
    """These definitions and every one that they use, directly or not."""
    found: set[Definition] = set()
    waiting = list(roots)
    while waiting:
        definition = waiting.pop()
        if definition not in found and definition[1] in _statements(definition[0]):
            found.add(definition)
            waiting.extend(_used(*definition))
    return found


@cache
def _tree(module: str) -> ast.Module:
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    place = Path(spec.submodule_search_locations[0]).joinpath(*inner)
    for source in (place.with_suffix(".py"), place / "__init__.py"):
        if source.is_file():
            return _undocumented(ast.parse(source.read_text(encoding="utf-8")))
    return ast.Module([], [])  # an attribute of a class, which is counted with its class


def _undocumented(tree: ast.Module) -> ast.Module:
    """The same tree, without the docstrings of functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _statements(module: str) -> dict[str, list[ast.stmt]]:
    """The statements at a module's top level that bind each name."""
    bound: dict[str, list[ast.stmt]] = {}
    for statement in _tree(module).body:
        for name in _bound_by(statement):
            bound.setdefault(name, []).append(statement)
    return bound


@cache
def _code(module: str, name: str) -> str:
    """The code of a definition, without docstrings and comments."""
    return "\n".join(map(ast.dump, _statements(module)[name]))


def _bound_by(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With | ast.If | ast.Try):
        return [
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return []


@cache
def _used(module: str, name: str) -> frozenset[Definition]:
    used: set[Definition] = set()
    for statement in _statements(module)[name]:
        local = _imported(module) | _imports(statement)
        for node in _walk_undecorated(statement):
            if isinstance(node, ast.Name):
                used.add(local.get(node.id, (module, node.id)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                target = local.get(node.value.id)
                if target is not None:  # `from graft import figures` … `figures.folds`
                    used.add((f"{target[0]}.{target[1]}".strip("."), node.attr))
    return frozenset(used)


def _walk_undecorated(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a definition but for its decorators: how a step is registered is not what it computes."""
    skipped = {id(node) for one in getattr(statement, "decorator_list", []) for node in ast.walk(one)}
    return (node for node in ast.walk(statement) if id(node) not in skipped)


@cache
def _imported(module: str) -> dict[str, Definition]:
    return _imports(_tree(module))


def _imports(tree: ast.AST) -> dict[str, Definition]:
    """What each imported name of Graft's stands for."""
    names: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names
