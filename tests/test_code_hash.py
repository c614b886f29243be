"""A step's code hash depends on the code that the step reaches, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graft.integrations import code_hash

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
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "code_hash.py").write_text(Path(code_hash.__file__).read_text())
    return tmp_path


def hashes(project: Path) -> dict[str, str]:
    code = "import code_hash as c, steps.one as s; print(*(c.code_hash(f) for f in (s.one, s.two, s.three)))"
    process = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    return dict(zip(("one", "two", "three"), process.stdout.split(), strict=True))


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
def test_code_hash_changes_exactly_for_functions_that_reach_the_change(
    project: Path, before: str, after: str, changed: set[str]
) -> None:
    old = hashes(project)
    text = (project / "graft" / "maths.py").read_text()
    assert before in text
    (project / "graft" / "maths.py").write_text(text.replace(before, after))
    new = hashes(project)
    assert {name for name in old if old[name] != new[name]} == changed
