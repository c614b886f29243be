"""The import order of packages, the importers of heavy libraries, and materializers for all step outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GRAFT = REPOSITORY / "graft"
PACKAGES = [
    "config", "cache", "data", "models", "compute", "features", "evaluation", "training", "export", "inference",
    "promotion", "reports", "integrations", "cli",
]  # fmt: skip  # each imports only itself, the packages before it, and the top-level modules
TOP_LEVEL_MODULES = {"__init__", "errors", "seeds", "gc_tuning", "interrupts", "places"}
MODULES = sorted(GRAFT.rglob("*.py"))
DOMAIN = [path for path in MODULES if path.relative_to(GRAFT).parts[0] not in {"integrations", "cli"}]


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports anywhere in it: modules, and names from modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_packages(path: Path) -> set[str]:
    """The packages and top-level modules of Graft that a module imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("graft.")}


def name_of(path: Path) -> str:
    return path.relative_to(GRAFT).as_posix()


def test_packages_are_listed_and_top_level_modules_are_few() -> None:
    assert {path.parent.name for path in GRAFT.glob("*/*.py")} == set(PACKAGES)
    assert {path.stem for path in GRAFT.glob("*.py")} == TOP_LEVEL_MODULES


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_packages_before_it(package: str) -> None:
    allowed = {*TOP_LEVEL_MODULES, "__version__", *PACKAGES[: PACKAGES.index(package) + 1]}
    for path in (GRAFT / package).rglob("*.py"):
        assert imported_packages(path) <= allowed, path


@pytest.mark.parametrize("module", sorted(TOP_LEVEL_MODULES))
def test_top_level_module_imports_no_package(module: str) -> None:
    assert not imported_packages(GRAFT / f"{module}.py") & set(PACKAGES)


@pytest.mark.parametrize("path", DOMAIN, ids=name_of)
def test_domain_module_imports_neither_zenml_nor_mlflow(path: Path) -> None:
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"zenml", "mlflow", "pipelines", "steps", "materializers"}


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("great_expectations", {"data/expectations.py", "data/expectation_runner.py"}),
        ("imagehash", {"data/inspection.py"}),
        ("jinja2", {"reports/pages.py"}),
        ("fsspec", {"data/remote_storage.py"}),
    ],
)
def test_heavy_library_is_imported_in_one_place(library: str, modules: set[str]) -> None:
    users = {name_of(path) for path in MODULES if library in {name.split(".")[0] for name in imports(path)}}
    assert users == modules


def test_every_step_output_has_a_materializer() -> None:
    from zenml.materializers.cloudpickle_materializer import CloudpickleMaterializer
    from zenml.materializers.materializer_registry import materializer_registry
    from zenml.utils import source_utils

    source_utils.set_custom_source_root(str(REPOSITORY))  # as .zen does, which a fresh clone does not have
    import pipelines.promotion
    import pipelines.training  # noqa: F401
    import steps

    for path in (REPOSITORY / "steps").glob("[!_]*.py"):
        step = getattr(__import__(f"steps.{path.stem}", fromlist=[path.stem]), path.stem)
        for name, output in step.entrypoint_definition.outputs.items():
            annotation = output.resolved_annotation
            assert materializer_registry[annotation] is not CloudpickleMaterializer, (path.stem, name)
    assert steps.__doc__
