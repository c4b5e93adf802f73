"""The versions that benchmarks/compatibility.py chooses, and its table."""

from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.compatibility import Row, constraints, lowest, requirements, table


def test_the_lowest_versions_are_those_of_the_requirements():
    found = [Requirement(text) for text in ("a>=1.2", "b[x]>=3.17,<5", "c", "a>=1.10")]
    assert lowest(found) == ["a==1.10", "b==3.17"]


def test_every_dependency_has_a_lowest_version_that_it_allows():
    names = {requirement.name for requirement in requirements()}
    pins = dict(pin.split("==") for pin in lowest(requirements()))
    assert pins.keys() == names
    for requirement in requirements():
        assert requirement.specifier.contains(Version(pins[requirement.name]))


def test_torch_may_be_given():
    pins = constraints("lowest", "2.13.0")
    assert [pin for pin in pins if pin.startswith("torch")] == ["torch==2.13.0"]
    assert constraints("newest", None) == []


def test_the_table_has_what_failed():
    row = Row(
        "lowest",
        dict.fromkeys(("torch", "mujoco", "gymnasium", "numpy"), "1")
        | {"stable-baselines3": "2", "tensorboard": "3"},
        {"install": "passed", "x": "failed: E"},
    )
    assert table([row]).splitlines()[2] == "| lowest | 1 | 1 | 1 | 1 | 2 | 3 | 1 | x (failed: E) |"
