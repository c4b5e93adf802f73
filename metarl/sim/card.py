"""Cards: the coefficients of a family of control tasks and their sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One line of a card.

    Attributes:
        what: The quantity, such as "reward".
        value: Its formula, range or number, with units.
        source: Its source, if it differs from the card's source.
    """

    what: str
    value: str
    source: str = ""


@dataclass(frozen=True)
class Card:
    """The complete definition of a family, sufficient to reimplement it; `str(card)` is readable.

    Attributes:
        name: The family's name with its version. A change that affects results gets a new version.
        summary: One sentence.
        source: The paper or code that the numbers are from.
        facts: Tasks, start, observation, action, dynamics, reward, termination and horizon.
        disjoint: Whether the splits share no task. If False, training and test tasks are the same.
    """

    name: str
    summary: str
    source: str
    facts: tuple[Fact, ...]
    disjoint: bool = True

    def lines(self) -> tuple[Fact, ...]:
        """Returns the facts and one on the splits."""
        splits = "disjoint" if self.disjoint else "train equals validation equals test"
        return (*self.facts, Fact("splits", splits, "MetaRL"))

    def __str__(self) -> str:
        """Returns the card as text, one fact per line."""
        facts = self.lines()
        width = max(len(f.what) for f in facts) + 2
        lines = [f"{self.name}: {self.summary}", f"Source: {self.source}", ""]
        for fact in facts:
            note = f"  [{fact.source}]" if fact.source else ""
            lines.append(f"{fact.what:<{width}}{fact.value}{note}")
        return "\n".join(lines)
