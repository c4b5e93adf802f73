"""Faults of robots: slopes, payloads, changed friction, weak or failing actuators, latency."""

from __future__ import annotations

from dataclasses import dataclass, fields

from metarl.errors import SettingsError
from metarl.ranges import check_fields
from metarl.tasks.base import Split

Interval = tuple[float, float]

LIMITS: dict[str, Interval] = {
    "slope": (-45.0, 45.0),
    "payload": (0.0, 10.0),
    "friction": (0.0, 10.0),
    "actuator": (0.0, 1.0),
    "strength": (0.0, 1.0),
    "latency": (0.0, 1.0),
}
DESCRIPTIONS = {
    "slope": "slope uphill in degrees",
    "payload": "load as a share of the torso's mass and inertia",
    "friction": "factor on the friction of all geoms and the floor",
    "actuator": "remaining share of the force of {group}, chosen uniformly,",
    "strength": "remaining share of the force of all actuators",
    "latency": "delay of controls in seconds, rounded to MuJoCo's steps,",
}


@dataclass(frozen=True)
class Ranges:
    """Three disjoint intervals (low, high) that a parameter is sampled from uniformly.

    Attributes:
        train: Interval of training and validation tasks.
        test: Interval of test tasks.
        beyond: Interval further from the training interval, to find the limits of adaptation.
    """

    train: Interval
    test: Interval
    beyond: Interval

    def __post_init__(self) -> None:
        """Checks that the intervals do not overlap.

        Raises:
            SettingsError: An interval has low > high, or two intervals overlap.
        """
        check_fields(self)
        ordered = sorted((self.train, self.test, self.beyond))
        ends = [end for interval in ordered for end in interval]
        if ends != sorted(ends):
            raise SettingsError(
                f"Expected ranges (low, high) that do not overlap, got {self.train} in training, "
                f"{self.test} in tests and {self.beyond} beyond."
            )

    def of(self, part: Split, beyond: bool) -> Interval:
        """Returns the interval of a split; `beyond` replaces `test` by the `beyond` interval."""
        if part != "test":
            return self.train
        return self.beyond if beyond else self.test

    def describe(self) -> str:
        """Returns a text of the intervals for a card."""
        text = {name: f"{low:g} to {high:g}" for name, (low, high) in vars(self).items()}
        return f"U: {text['train']} in training, {text['test']} in tests, {text['beyond']} beyond"


@dataclass(frozen=True)
class Fault:
    """The parameters of a robot that differ between tasks, with their ranges; None: unchanged.

    Attributes:
        slope: Uphill slope of the ground along x in degrees, in [-45, 45]; gravity is tilted.
        payload: Mass and inertia added to the torso, as a share of its own, in [0, 10].
        friction: Factor on the friction of all geoms, including the floor, in [0, 10].
        actuator: Remaining share of the force of one group of actuators, in [0, 1]; the group is
            sampled uniformly.
        strength: Remaining share of the force of all actuators, in [0, 1].
        latency: Delay of the controls in s, rounded to MuJoCo's time steps, in [0, 1].
        group: Number of neighbouring actuators that fail together, at least 1.
    """

    slope: Ranges | None = None
    payload: Ranges | None = None
    friction: Ranges | None = None
    actuator: Ranges | None = None
    strength: Ranges | None = None
    latency: Ranges | None = None
    group: int = 1

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            SettingsError: All ranges are None, one exceeds the limits of its parameter, or `group`
                is below 1.
        """
        check_fields(self)
        if not self.ranges():
            raise SettingsError(f"Expected a range of at least one out of {', '.join(LIMITS)}.")
        if self.group < 1:
            raise SettingsError(f"Expected a group of at least 1 actuator, got {self.group}.")
        for name, ranges in self.ranges().items():
            low, high = LIMITS[name]
            for interval in (ranges.train, ranges.test, ranges.beyond):
                if not low <= interval[0] <= interval[1] <= high:
                    raise SettingsError(
                        f"Expected ranges of {name} between {low} and {high}, got {interval}."
                    )

    def ranges(self) -> dict[str, Ranges]:
        """Returns the ranges that are not None, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Ranges)}

    def describe(self) -> str:
        """Returns a text of the parameters and their ranges for a card."""
        group = "one actuator" if self.group == 1 else f"{self.group} neighbouring actuators"
        ranges = self.ranges().items()
        return "; ".join(
            f"{DESCRIPTIONS[name].format(group=group)} ~ {r.describe()}" for name, r in ranges
        )


SLOPE = Fault(slope=Ranges((-2.0, 2.0), (5.0, 12.0), (12.0, 18.0)))
PAYLOAD = Fault(payload=Ranges((0.0, 0.5), (0.75, 1.5), (1.5, 2.5)))
FRICTION = Fault(friction=Ranges((0.7, 1.3), (0.35, 0.65), (0.15, 0.35)))
ACTUATOR = Fault(actuator=Ranges((0.4, 1.0), (0.1, 0.35), (0.0, 0.0)))
LEG = Fault(actuator=Ranges((0.4, 1.0), (0.1, 0.35), (0.0, 0.0)), group=2)
STRENGTH = Fault(strength=Ranges((0.8, 1.0), (0.55, 0.75), (0.35, 0.55)))
LATENCY = Fault(latency=Ranges((0.0, 0.02), (0.03, 0.06), (0.06, 0.1)))
