"""What befalls a robot: a slope, a load, worn soles, failing or weak motors, late commands."""

from __future__ import annotations

from dataclasses import dataclass, fields

from metarl.errors import SettingsError
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
TOLD = {
    "slope": "slope uphill in degrees",
    "payload": "load as a share of the torso's mass and inertia",
    "friction": "factor of the friction of all geoms and the floor",
    "actuator": "what is left of the force of {group}, each as likely,",
    "strength": "what is left of the force of all actuators",
    "latency": "seconds by which controls come late, rounded to MuJoCo's steps,",
}


@dataclass(frozen=True)
class Ranges:
    """Where a number is uniform, in three sets of tasks that have no range in common.

    Attributes:
        train: In training, and in validation.
        test: In tests.
        beyond: Further out, to see where adaptation ends.
    """

    train: Interval
    test: Interval
    beyond: Interval

    def __post_init__(self) -> None:
        """Checks that the ranges are apart.

        Raises:
            SettingsError: One is turned round, or two overlap.
        """
        ordered = sorted((self.train, self.test, self.beyond))
        ends = [end for interval in ordered for end in interval]
        if ends != sorted(ends):
            raise SettingsError(
                f"Expected ranges (low, high) that do not overlap, got {self.train} in training, "
                f"{self.test} in tests and {self.beyond} beyond."
            )

    def of(self, part: Split, beyond: bool) -> Interval:
        """Returns the range of a split; `beyond` moves that of tests further out."""
        if part != "test":
            return self.train
        return self.beyond if beyond else self.test

    def told(self) -> str:
        """Returns the ranges in words, for a card."""
        told = {name: f"{low:g} to {high:g}" for name, (low, high) in vars(self).items()}
        return f"U: {told['train']} in training, {told['test']} in tests, {told['beyond']} beyond"


@dataclass(frozen=True)
class Fault:
    """What befalls a robot, as ranges of numbers; None leaves that as it is.

    Attributes:
        slope: The ground rises along x by so many degrees: gravity is tilted.
        payload: The torso carries this share of its own mass, and of its inertia.
        friction: The friction of all geoms, the floor's too, is multiplied by this.
        actuator: What is left of the force of one actuator, in [0, 1]; all are as likely.
        strength: What is left of the force of all actuators, in [0, 1].
        latency: Seconds by which controls come late, rounded to MuJoCo's own steps.
        group: How many neighbouring actuators fail together.
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
            SettingsError: There is none, or one leaves what the number can be.
        """
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
        """Returns the ranges that there are, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Ranges)}

    def told(self) -> str:
        """Returns what tells tasks apart, for a card."""
        group = "one actuator" if self.group == 1 else f"{self.group} neighbouring actuators"
        ranges = self.ranges().items()
        return "; ".join(f"{TOLD[name].format(group=group)} ~ {r.told()}" for name, r in ranges)


SLOPE = Fault(slope=Ranges((-2.0, 2.0), (5.0, 12.0), (12.0, 18.0)))
PAYLOAD = Fault(payload=Ranges((0.0, 0.5), (0.75, 1.5), (1.5, 2.5)))
FRICTION = Fault(friction=Ranges((0.7, 1.3), (0.35, 0.65), (0.15, 0.35)))
ACTUATOR = Fault(actuator=Ranges((0.4, 1.0), (0.1, 0.35), (0.0, 0.0)))
LEG = Fault(actuator=Ranges((0.4, 1.0), (0.1, 0.35), (0.0, 0.0)), group=2)
STRENGTH = Fault(strength=Ranges((0.8, 1.0), (0.55, 0.75), (0.35, 0.55)))
LATENCY = Fault(latency=Ranges((0.0, 0.02), (0.03, 0.06), (0.06, 0.1)))
