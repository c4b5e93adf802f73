"""What a family of control tasks says about itself: every number of it, and where it is from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One line of a card.

    Attributes:
        what: What is told ("reward").
        value: The formula, range or number, with its units.
        source: Where it is from, if that is not the card's own source.
    """

    what: str
    value: str
    source: str = ""


@dataclass(frozen=True)
class Card:
    """All that one must know to build a family again; `str(card)` is how it is printed.

    Attributes:
        name: The family's name with its version; what moves results gets a new version.
        summary: One sentence.
        source: The paper or code that the numbers are from.
        facts: Tasks, start, observation, action, dynamics, reward, termination and horizon.
        disjoint: Whether the splits share no task. False: training and test tasks are the same.
    """

    name: str
    summary: str
    source: str
    facts: tuple[Fact, ...]
    disjoint: bool = True

    def lines(self) -> tuple[Fact, ...]:
        """Returns the facts, and how the splits are."""
        splits = "disjoint" if self.disjoint else "train equals validation equals test"
        return (*self.facts, Fact("splits", splits, "MetaRL"))

    def __str__(self) -> str:
        """Returns the card as lines of text, with the facts under each other."""
        facts = self.lines()
        width = max(len(f.what) for f in facts) + 2
        lines = [f"{self.name}: {self.summary}", f"Source: {self.source}", ""]
        for fact in facts:
            note = f"  [{fact.source}]" if fact.source else ""
            lines.append(f"{fact.what:<{width}}{fact.value}{note}")
        return "\n".join(lines)
