"""A hash of all code of Graft that a function depends on, so that a change to the code invalidates cached steps.

It is computed from the source, without running it: from a definition, each name that it uses is followed to the
definition of that name in Graft, recursively. Docstrings, comments and definitions that are never reached do not
count. A class is hashed with all its methods.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("graft", "steps")
Definition = tuple[str, str]  # a module, and a name at its top level


def code_hash(*roots: Callable[..., object] | type) -> str:
    """SHA-256 of these functions or classes, and of every definition in Graft that they reach."""
    digest = hashlib.sha256()
    for module, name in sorted(reachable_definitions((root.__module__, root.__name__) for root in roots)):
        digest.update(f"{module}.{name}:{_code(module, name)}\n".encode())
    return digest.hexdigest()


def reachable_definitions(roots: Iterable[Definition]) -> set[Definition]:
    """These definitions, and every one that they use directly or indirectly."""
    reached: set[Definition] = set()
    queue = list(roots)
    while queue:
        definition = queue.pop()
        if definition not in reached and definition[1] in _statements(definition[0]):
            reached.add(definition)
            queue.extend(_references(*definition))
    return reached


@cache
def _tree(module: str) -> ast.Module:
    package, *submodules = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]).joinpath(*submodules)
    for source in (path.with_suffix(".py"), path / "__init__.py"):
        if source.is_file():
            return _without_docstrings(ast.parse(source.read_text(encoding="utf-8")))
    return ast.Module([], [])  # an attribute of a class, which is hashed with its class


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The same tree, without the docstrings of functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _statements(module: str) -> dict[str, list[ast.stmt]]:
    """The statements at a module's top level that bind each name."""
    statements: dict[str, list[ast.stmt]] = {}
    for statement in _tree(module).body:
        for name in _bound_names(statement):
            statements.setdefault(name, []).append(statement)
    return statements


@cache
def _code(module: str, name: str) -> str:
    """The code of a definition, without docstrings, comments and formatting."""
    return "\n".join(map(ast.dump, _statements(module)[name]))


def _bound_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With | ast.If | ast.Try):
        return [
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return []


@cache
def _references(module: str, name: str) -> frozenset[Definition]:
    """The definitions that one uses directly; some of them may not exist."""
    references: set[Definition] = set()
    for statement in _statements(module)[name]:
        imports = _module_imports(module) | _imports(statement)
        for node in _walk_without_decorators(statement):
            if isinstance(node, ast.Name):
                references.add(imports.get(node.id, (module, node.id)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                target = imports.get(node.value.id)
                if target is not None:  # `from graft.reports import figures` … `figures.confusion`
                    references.add((f"{target[0]}.{target[1]}".strip("."), node.attr))
    return frozenset(references)


def _walk_without_decorators(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a definition without its decorators: options of a step do not change what it computes."""
    decorators = getattr(statement, "decorator_list", [])
    excluded = {id(node) for decorator in decorators for node in ast.walk(decorator)}
    return (node for node in ast.walk(statement) if id(node) not in excluded)


@cache
def _module_imports(module: str) -> dict[str, Definition]:
    return _imports(_tree(module))


def _imports(tree: ast.AST) -> dict[str, Definition]:
    """The definition behind each name that is imported from Graft."""
    names: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names
