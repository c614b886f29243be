"""The cache goes by the code that a step reaches: no more and no less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = {
    "graft/__init__.py": "",
    "graft/maths.py": '''
LIMIT = 3

def used(x):
    """Double."""
    return helper(x) * LIMIT

def helper(x):
    return x + 1

def other(x):
    return x

class Shape:
    """A shape."""

    def area(self):
        """How large it is."""
        return other(1)
''',
    "steps/__init__.py": "",
    "steps/one.py": """
from graft import maths
from graft.maths import used

def one(x):
    return used(x)

def two(x):
    return maths.Shape().area()

def three(x):
    from graft.maths import helper as h
    return h(x)
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    from graft.runtime import code_version

    assert code_version.__file__
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "code_version.py").write_text(Path(code_version.__file__).read_text())
    return tmp_path


def versions(project: Path) -> dict[str, str]:
    code = "import code_version as c, steps.one as s; print(*(c.code_version(f) for f in (s.one, s.two, s.three)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    return dict(zip(("one", "two", "three"), done.stdout.split(), strict=True))


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("x + 1", "x + 2", {"one", "three"}),
        ("LIMIT = 3", "LIMIT = 4", {"one"}),
        ("return x\n", "return -x\n", {"two"}),
        ("return other(1)", "return other(2)", {"two"}),
        ('"""Double."""', '"""Double, as documented."""', set()),
        ('"""A shape."""', '"""Any shape."""', set()),
        ('"""How large it is."""', "", set()),
        ("return x + 1", "return x + 1  # a comment", set()),
        ("return x + 1", "return  (x+1)", set()),
    ],
)
def test_exactly_what_depends_on_a_definition_changes(
    project: Path, before: str, after: str, changed: set[str]
) -> None:
    old = versions(project)
    text = (project / "graft" / "maths.py").read_text()
    assert before in text
    (project / "graft" / "maths.py").write_text(text.replace(before, after))
    new = versions(project)
    assert {name for name in old if old[name] != new[name]} == changed
