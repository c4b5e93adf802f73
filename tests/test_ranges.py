"""Settings are checked on construction: each field's type, and each number's range."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol, get_args, get_origin, get_type_hints

import metarl_envs
import numpy as np
import pytest

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.errors import MetarlError, SettingsError
from metarl.lab import EXPERIMENTS, find_experiment
from metarl.lab.command_line import settings_from
from metarl.ranges import (
    COUNT,
    FRACTION,
    POSITIVE,
    Range,
    check_fields,
    check_int,
    check_number,
    user_path,
)
from metarl.rl.settings import PolicyGradientSettings
from metarl.runs.run_folder import to_json
from metarl.sb3.ppo import PPOAlgorithm
from metarl.tasks import Sine
from metarl.tasks.distortions import Distortion
from metarl.training import TrainingSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.trust_region import TrustRegionSettings


class Named(Protocol):
    """What has a name."""

    name: str


@dataclass(frozen=True)
class Settings:
    """Settings of all kinds."""

    count: int = 1
    rate: float | None = None
    kind: Literal["adam", "sgd"] = "adam"
    hidden: tuple[int, ...] = (1,)
    ends: tuple[float, float] = (0.0, 1.0)
    folder: Path | None = None
    flag: bool = False
    other: object = None
    seconds: float = 0.0
    named: Named | None = None
    table: Mapping[str, int] | None = None

    def __post_init__(self):
        """Checks them."""
        check_fields(self, count=COUNT, rate=POSITIVE, hidden=COUNT)


@pytest.mark.parametrize("name", ["loss", "outer_loss", "metric"])
def test_a_class_is_no_function(name):
    with pytest.raises(SettingsError, match=f"`{name}` to be .*a function .not a class"):
        MAMLAlgorithm(**{name: int})


def test_usable_values_pass():
    other = {}
    settings = Settings(2, 1, "sgd", [3, 4], (0, 1), "folder", True, other)
    values = 2, 1.0, "sgd", (3, 4), (0.0, 1.0), Path("folder"), True, {}
    assert dataclasses.astuple(settings)[:8] == values and settings.other is other


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": np.int64(2)}, 2),
        ({"count": np.uint8(2)}, 2),
        ({"rate": np.float32(0.5)}, 0.5),
        ({"rate": Fraction(1, 2)}, 0.5),
        ({"rate": np.int32(3)}, 3.0),
        ({"rate": 10**20}, 1e20),
        ({"hidden": [np.int64(3), 4]}, (3, 4)),
        ({"ends": [0, np.float64(1)]}, (0.0, 1.0)),
        ({"folder": "runs"}, Path("runs")),
        ({"flag": np.bool_(True)}, True),
    ],
    ids=str,
)
def test_values_become_those_that_a_config_file_restores(change, expected):
    (name,) = change
    settings = Settings(**change)
    value = getattr(settings, name)
    assert value == expected and type(value) is type(expected)
    if isinstance(expected, tuple):
        assert list(map(type, value)) == list(map(type, expected))
    assert settings_from(Settings(), json.loads(json.dumps(to_json(settings)))) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.5}, r"Expected `count` to be an integer, got 1\.5"),
        ({"count": True}, "an integer, got True"),
        ({"count": None}, r"an integer, got None \(NoneType\)"),
        ({"count": "1"}, r"an integer, got '1' \(str\)"),
        ({"count": 0}, "Expected `count` of at least 1, got 0"),
        ({"count": 10**30}, r"at most 1e\+12, got 1000"),
        ({"count": 10**5000}, "without a text"),
        ({"rate": math.nan}, "Expected `rate` to be a finite number or None, got nan"),
        ({"rate": math.inf}, "finite number or None, got inf"),
        ({"rate": 10**400}, "finite number"),
        ({"rate": "0.1"}, "finite number or None, got '0.1'"),
        ({"rate": 0}, "Expected a finite `rate` above 0, got 0"),
        ({"kind": "adan"}, "Unknown kind 'adan'. Did you mean 'adam'"),
        ({"kind": 3}, "Unknown kind '3'"),
        ({"kind": np.array([])}, "Unknown kind"),
        ({"kind": np.array(["adam"])}, "Unknown kind"),
        ({"rate": 1e31}, r"`rate` of at most 1e\+30 in magnitude, got 1e\+31"),
        ({"seconds": -1e300}, r"`seconds` of at most 1e\+30 in magnitude"),
        ({"named": 3}, "a Named or None, got 3"),
        ({"table": [1]}, "`table` to be"),
        ({"hidden": 5}, "a tuple, each element an integer, got 5"),
        ({"hidden": ("a",)}, "a tuple"),
        ({"hidden": (1, 0)}, "Expected `hidden` of at least 1, got 0"),
        ({"ends": (1.0,)}, "Expected `ends`"),
        ({"ends": (0.0, math.nan)}, "Expected `ends`"),
        ({"folder": 3}, "a path or None, got 3"),
        ({"flag": 1}, "True or False, got 1"),
    ],
)
def test_others_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**change)


def test_ranges_have_open_and_closed_ends():
    half_open = Range(0, 1, includes_low=False)
    assert 1 in half_open and 0 not in half_open and math.nan not in half_open
    assert (str(half_open), str(FRACTION)) == ("in (0, 1]", "in [0, 1]")
    assert check_int("n", 3) == 3 and check_number("x", 0.5, FRACTION) == 0.5
    with pytest.raises(SettingsError, match=r"`x` in \[0, 1\], got 2"):
        check_number("x", 2, FRACTION)


def parts(value):
    """Yields a dataclass of settings and those in its fields."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))


def all_settings():
    """Returns one instance of each class of settings that experiments and families have."""
    found = {}
    for name in EXPERIMENTS.names():
        for config in find_experiment(name).configs.values():
            found |= {type(part): part for part in parts(config)}
    families = (getattr(metarl_envs, name)() for name in metarl_envs.__all__)
    for family in families:
        found.setdefault(type(family), family)
    others = (Sine(), PPOAlgorithm(), ProximalSettings(), TrustRegionSettings(), Distortion())
    return list((found | {type(part): part for part in others}).values())


def numbers(settings):
    """Yields the names of the fields that are numbers, and whether they are integers."""
    for name, hint in get_type_hints(type(settings)).items():
        kinds = [a for k in (hint, *get_args(hint)) for a in (k, *get_args(k))]
        is_field = name in {f.name for f in dataclasses.fields(settings)}
        if is_field and get_origin(hint) is not Literal and {int, float} & set(kinds):
            yield name, int in kinds, any(get_origin(k) is tuple for k in (hint, *get_args(hint)))


@pytest.mark.parametrize("settings", all_settings(), ids=lambda s: type(s).__name__)
def test_no_settings_take_a_number_that_is_none(settings):
    for name, is_integer, is_tuple in numbers(settings):
        bad = [math.nan, math.inf, -math.inf, "x", [], {}, True, 10**400]
        bad += [1.5, 10**30, -(10**30)] if is_integer else []
        for value in bad:
            with pytest.raises(SettingsError, match="Expected"):
                dataclasses.replace(settings, **{name: (value,) if is_tuple else value})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (TrainingSettings, {"iterations": 1.5}),
        (TrainingSettings, {"workers": 10**30}),
        (TrainingSettings, {"threads": 100_000}),
        (TrainingSettings, {"final_lr": math.nan}),
        (TrainingSettings, {"seed": 2**64}),
        (TrustRegionSettings, {"damping": math.nan}),
        (TrustRegionSettings, {"max_kl": math.inf}),
        (ProximalSettings, {"max_kl": math.inf}),
        (PolicyGradientSettings, {"inner_kl": math.inf}),
    ],
    ids=str,
)
def test_the_settings_of_the_audit(kind, change):
    with pytest.raises(MetarlError, match=next(iter(change))):
        kind(**change)


@dataclass(frozen=True)
class Places:
    """Settings with a path."""

    runs: Path = Path("runs")


def test_paths_of_the_user_know_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/robots/arm.xml") == tmp_path / "robots" / "arm.xml"
    assert user_path(Path("~")) == tmp_path
    assert user_path("~$table.csv") == Path("~$table.csv")  # a lock file of an office, no user
    settings = Places("~/runs")  # pyright: ignore[reportArgumentType]
    check_fields(settings)
    assert settings.runs == tmp_path / "runs"
    with pytest.raises(SettingsError, match="Expected `folder` to be a path, got 3"):
        user_path(3, "folder")
