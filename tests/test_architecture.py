"""Who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GRAFT = REPOSITORY / "graft"
DOMAIN = sorted(path for path in GRAFT.rglob("*.py") if path.parent.name != "runtime")
LAYERS = ["cache", "data", "networks", "compute", "inputs", "learning"]  # each knows those before it
GROUND = {"config", "config_file", "training_config", "section", "errors", "seeds"}


def imported(path: Path) -> set[str]:
    """The modules that a module imports anywhere in it, and the names that it imports from them, dotted."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "modules are imported by their whole names"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", DOMAIN, ids=lambda path: path.stem)
def test_the_domain_knows_neither_zenml_nor_mlflow(path: Path) -> None:
    packages = {name.split(".")[0] for name in imported(path)}
    assert not packages & {"zenml", "mlflow", "pipelines", "steps", "materializers"}
    if path.stem != "cli":
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("graft.")}
        assert "runtime" not in rooms
        if path.parent.name != "reports":  # or what they draw would decide what is kept
            assert "reports" not in rooms


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_knows_those_before_it_and_the_ground(layer: str) -> None:
    known = {*GROUND, *LAYERS[: LAYERS.index(layer) + 1]}
    modules = sorted((GRAFT / layer).glob("*.py"))
    assert len(modules) > 1
    for path in modules:
        ours = {name.split(".")[1] for name in imported(path) if name.split(".")[0] == "graft"}
        assert ours <= known, path


def test_every_folder_of_the_domain_is_a_layer() -> None:
    folders = {path.parent.name for path in DOMAIN}
    assert folders == {"graft", "reports", *LAYERS}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("great_expectations", {"expectations", "judge"}),  # what is asked, and how it is run
        ("imagehash", {"inspection"}),
        ("jinja2", {"pages"}),
        ("fsspec", {"remote"}),
    ],
)
def test_a_heavy_library_has_one_place(library: str, homes: set[str]) -> None:
    users = {path.stem for path in DOMAIN if library in {name.split(".")[0] for name in imported(path)}}
    assert users == homes


def test_every_type_that_we_own_has_a_materializer() -> None:
    from zenml.materializers.cloudpickle_materializer import CloudpickleMaterializer
    from zenml.materializers.materializer_registry import materializer_registry
    from zenml.utils import source_utils

    source_utils.set_custom_source_root(str(REPOSITORY))  # a fresh clone has no .zen that would tell it
    import pipelines.promotion
    import pipelines.training  # noqa: F401
    import steps

    for path in (REPOSITORY / "steps").glob("[!_]*.py"):
        step = getattr(__import__(f"steps.{path.stem}", fromlist=[path.stem]), path.stem)
        for name, output in step.entrypoint_definition.outputs.items():
            kind = output.resolved_annotation
            assert materializer_registry[kind] is not CloudpickleMaterializer, (path.stem, name)
    assert steps.__doc__
