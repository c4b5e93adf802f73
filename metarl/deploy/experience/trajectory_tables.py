"""Logs as tables: Parquet and CSV files and data frames, cut into episodes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from metarl.deploy.arrays import as_array
from metarl.errors import DataError, ShapeError, short_repr
from metarl.extras import import_extra
from metarl.tasks.data.arrow_columns import EXTRA
from metarl.tasks.data.table_files import READERS, read_csv
from metarl.tasks.files import check_regular

NUMBERED = re.compile(r"(?P<name>.+?)[_.\[](?P<index>\d+)\]?")
"""Names of columns that belong together: observation_0, action.1, state[2]."""
LISTED = re.compile(r"\s*[\[(][^\[\]()]*[\])]\s*")
"""Texts of lists and arrays of numbers, as data frames write them into CSV files."""
MARKS = re.compile(
    r"(ep|episode|traj|trajectory|trial|rollout|demo|demonstration|run)s?"
    r"([_.]?(ids?|idx|(data_)?index|num|number|nr|no|ends?|starts?))?"
    r"|(is_?)?(first|last|end|start|terminal|reset)s?|done\w*|not_dones?|masks?"
    r"|terminals?|terminat(ed|ions?)|truncat(ed|ions?)|time_?(out|limit)s?"
)
"""Names that say where episodes end, though nobody knows in which way."""
LENGTHS = re.compile(
    r"((ep|episode|traj|trajectory|trial|rollout|demo|demonstration|run)s?[_.]?)?(len|length|size)s?"
)
"""Names of the lengths of episodes."""
RLDS = " Logs of RLDS have both `is_last` and `is_terminal`, of which one is missing."


def file_columns(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of a .csv, .tsv or Parquet file by name, in its order.

    Raises:
        DataError: The file cannot be read.
        SettingsError: pyarrow is not installed.
    """
    delimiter = READERS.get(path.suffix.lower())
    parquet = import_extra("pyarrow.parquet", EXTRA)
    try:
        check_regular(path)
        return plain_columns(read_csv(path, delimiter) if delimiter else parquet.read_table(path))
    except DataError:
        raise
    except Exception as error:  # the reader raises anything for damaged files
        kind = "a CSV file" if delimiter else "a Parquet file"
        if not delimiter and path.suffix.lower() != ".parquet":
            kind = "a .csv, .tsv or .parquet file; read others in Python and pass their arrays"
        raise DataError(f"Cannot read {path}: {error}. Expected {kind}.") from error


def table_columns(table: Any) -> dict[str, np.ndarray]:
    """Returns the columns of a table by name; observation_0, observation_1, ... become one.

    Args:
        table: A table of pandas or Arrow; lists in a column are rows of an array.

    Raises:
        DataError: The lists of a column have different lengths, or there are no rows.
    """
    return joined_columns(plain_columns(table))


def plain_columns(table: Any) -> dict[str, np.ndarray]:
    """Returns the columns of a table by name, in its order; see `table_columns`."""
    names = list(table.column_names if hasattr(table, "column_names") else table.columns)
    return {_text(name): column_array(table[name], _text(name)) for name in names}


def column_array(column: Any, name: str) -> np.ndarray:
    """Returns a column of pandas or Arrow, or a data frame, as an array; lists are its rows.

    Raises:
        DataError: The lists have different lengths, or there are no rows.
    """
    values = column.to_numpy()
    if not len(values):
        raise DataError("Expected a table with rows, got one without any.")
    if values.dtype != object:
        return values
    try:
        return np.stack([np.asarray(row) for row in values])
    except (ValueError, TypeError) as error:
        raise DataError(f"Expected rows of one length in the column {name!r}: {error}.") from error


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file of NumPy by name.

    Raises:
        DataError: The file cannot be read, or holds objects, which are pickles.
    """
    try:
        check_regular(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read {path}: {error}. Expected an .npz file of arrays.") from error


def listed_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns columns in which texts of lists of numbers, "[0.1, 2]", have become arrays."""
    return {name: _listed(values) for name, values in columns.items()}


def joined_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns columns in which x_0, x_1, ... have become one, x; other numbers are left out."""
    found: dict[str, np.ndarray] = {}
    numbered: dict[str, dict[int, np.ndarray]] = {}
    for name, values in columns.items():
        match = NUMBERED.fullmatch(name)
        if match:
            numbered.setdefault(match["name"], {})[int(match["index"])] = values
        else:
            found[name] = values
    for name, parts in numbered.items():
        alike = len({values.shape for values in parts.values()}) == 1
        if alike and name not in found and sorted(parts) == list(range(len(parts))):
            found[name] = np.stack([parts[i] for i in range(len(parts))], 1)
    return found


def split_episodes(parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the episodes of arrays that hold several, one after another.

    A new one begins where the episode number changes, or after a terminated or truncated step.

    Args:
        parts: Arrays with the steps first, by the names of `trajectories.NAMES`.

    Raises:
        DataError: Parts have other lengths, an end is unknown, or the steps of an episode are not
            one after another.
        ShapeError: Rewards are not one number for each step.
    """
    parts = dict(parts)
    numbers = parts.pop("episode", None)
    rewards: Any = parts.get("rewards")
    if rewards is None or shape_of(rewards) == ():
        yield parts  # whoever reads it says what is missing
        return
    count = len(rewards)
    if count and (shape := shape_of(next(iter(rewards)))) not in ((), (1,)):
        raise ShapeError(
            f"Expected rewards [steps], one number for each step, got {count} parts, the first one "
            f"of the shape {list(shape)}. Of arrays of several episodes, [episodes, steps, *], or "
            "lists of them, make a list with a dict for each episode."
        )
    for name in ("times", "steps"):
        if name in parts and np.size(parts[name]) not in (count, count + 1):
            parts.pop(name)  # something else, such as the time of the whole log
    last = np.zeros(count, bool)
    for name in {"terminated", "truncated"} & parts.keys():
        flags = as_flags(parts[name], name).ravel()
        if len(flags) not in (1, count):
            raise DataError(f"Expected as many ends as rewards, {count}, got {len(flags)}.")
        if len(flags) == count:
            last |= flags
        elif not flags[0]:  # of all steps
            parts[name] = np.zeros(count, bool)
    if numbers is not None and count and np.size(numbers) != 1:  # one number is that of all steps
        last[:-1] |= _changes(np.ravel(np.asarray(numbers)), last)
    stops = [t + 1 for t in range(count - 1) if last[t]]
    if not stops:
        yield parts
        return
    for low, high in zip([0, *stops], [*stops, count], strict=True):
        yield {name: _rows(value, low, high, count) for name, value in parts.items()}


def shape_of(value: Any) -> tuple[int, ...]:
    """Returns the shape of a value; that of a list of unequal parts is its length."""
    try:
        return np.shape(value)
    except ValueError:
        return (len(value),)


def check_marks(log: Mapping[str, Any], count: int) -> None:
    """Raises DataError for a log that may say where episodes end by a name that is not known.

    Args:
        log: What a log has besides its known parts, none of which says where episodes end.
        count: The number of its steps.
    """
    lengths = [name for name, value in log.items() if _are_lengths(name, value, count)]
    if lengths:
        raise DataError(
            f"Expected a log that numbers its episodes, it has their lengths, {lengths[0]}: add "
            "episode=np.repeat(range(len(lengths)), lengths)."
        )
    marks = [
        name
        for name, value in log.items()
        if MARKS.fullmatch(str(name).lower()) and _differs(value, count)
    ]
    if marks:
        raise DataError(
            "Expected a log that says where its episodes end by a name that is known, it has "
            f"{', '.join(map(str, marks))}. Call it `episode` if it numbers the episodes, "
            "`terminated` or `truncated` if it is true at their last steps, or leave it out of a "
            f"log of one episode.{RLDS * ('is_last' in marks or 'is_terminal' in marks)}"
        )


def _differs(value: Any, count: int) -> bool:
    """Returns whether a part of a log is flags or numbers of several episodes, or their ends."""
    if isinstance(value, Mapping):
        return any(_differs(part, count) for part in value.values())
    values = np.ravel(np.asarray(value))
    if values.size == count:
        return 1 < len(set(values.tolist())) <= max(2, count // 2)
    if values.size < 2 or values.dtype.kind not in "iu":
        return False
    return bool(
        (np.diff(values.astype(np.int64)) > 0).all() and 0 <= values[0] < values[-1] <= count
    )


def _are_lengths(name: Any, value: Any, count: int) -> bool:
    """Returns whether a part of a log has the lengths of several episodes."""
    if not LENGTHS.fullmatch(str(name).lower()):
        return False
    values = np.ravel(np.asarray(value))
    if values.size < 2 or values.dtype.kind not in "iu":
        return False
    return bool((values > 0).all() and values.sum() == count)


def check_counter(numbers: np.ndarray, where: str, names: str) -> None:
    """Checks that a counter of steps, or their times, do not begin again within an episode.

    Args:
        numbers: The counter, [L].
        where: The episode.
        names: What logs call the counter.

    Raises:
        DataError: It goes back.
    """
    changes = np.diff(numbers)
    begins = (numbers[1:] == numbers[:1]) & (numbers[:1] == numbers.min(initial=np.inf))
    back = (changes < 0) & ((numbers == np.round(numbers)).all() | begins)
    if back.any() and (changes > 0).any():  # a countdown goes back at each step
        step = int(back.argmax()) + 1
        raise DataError(
            f"Expected the steps of {where} one after another, but their counter ({names}) goes "
            f"back from {numbers[step - 1]:g} to {numbers[step]:g} at step {step}. If another "
            "episode begins there, mark that end (`terminated`, `truncated` or an `episode` "
            "number); else sort the steps, or leave out what counts something else."
        )


def as_flags(value: Any, what: str) -> np.ndarray:
    """Returns ends, true or false, as an array of bool.

    Raises:
        DataError: One is neither, such as NaN or a text.
    """
    flags = as_array(value, what)
    if flags.dtype == bool:
        return flags
    try:
        flags = flags.astype(float)
    except (TypeError, ValueError):  # such as texts, or NA for a missing value
        flags = np.array(np.nan)
    if not np.isin(flags, (0, 1)).all():
        raise DataError(
            f"Expected `{what}` of true and false, or 1 and 0, for each step, got "
            f"{short_repr(value, 60)}. Where it is missing, fill in what it was."
        )
    return flags.astype(bool)


def _changes(numbers: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns after which steps the episode number changes, [count - 1] bool.

    Raises:
        DataError: A number is missing, or comes back though its episode has not ended.
    """
    if len(numbers) != len(last):
        raise DataError(
            f"Expected {len(last)} episode numbers, one per reward, got {len(numbers)}."
        )
    missing = [t for t, number in enumerate(numbers.tolist()) if not _is_known(number)]
    if missing:
        raise DataError(f"Expected an episode number for each step, step {missing[0]} has none.")
    changes = numbers[1:] != numbers[:-1]
    starts = [0, *(np.flatnonzero(changes) + 1).tolist()]
    unfinished = set()
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        if numbers[start] in unfinished:
            raise DataError(
                "Expected the steps of an episode one after another, those of episode "
                f"{numbers[start]} go on at step {start} after others: sort the log by episode and "
                "time. If these are different episodes, number them apart."
            )
        if not last[stop - 1]:
            unfinished.add(numbers[start])
    return changes


def _is_known(number: Any) -> bool:
    try:
        return number is not None and bool(number == number)  # NaN and NaT are not
    except TypeError:  # NA of pandas
        return False


def count_of(value: Any, space: spaces.Space[Any]) -> int:
    """Returns the number of steps of a part of a log.

    Args:
        value: Rows; or a dict, or a tuple of arrays, of the columns of a composite space.
        space: The space of one step.
    """
    columns = _columns_of(value, space)
    return len(value) if columns is None else count_of(*columns[0][1:])


def step_of(value: Any, step: int, space: spaces.Space[Any]) -> Any:
    """Returns what a part of a log has at a step; see `count_of`."""
    columns = _columns_of(value, space)
    if columns is None:
        return value[step]
    found = {name: step_of(part, step, inner) for name, part, inner in columns}
    return found if isinstance(space, spaces.Dict) else tuple(found.values())


def _columns_of(value: Any, space: spaces.Space[Any]) -> list[tuple[Any, Any, Any]] | None:
    """Returns the columns of a composite space with their names and spaces; None for rows."""
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        return [(name, value[name], part) for name, part in space.spaces.items()]
    first = value[0] if isinstance(value, tuple) and value else None
    if isinstance(space, spaces.Tuple) and isinstance(first, np.ndarray | Tensor | Mapping):
        return [(i, *pair) for i, pair in enumerate(zip(value, space.spaces, strict=True))]
    return None


def _rows(value: Any, low: int, high: int, count: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(part, low, high, count) for name, part in value.items()}
    if isinstance(value, tuple) and len(value) != count:  # columns of a Tuple
        return tuple(_rows(part, low, high, count) for part in value)
    try:
        rows = len(value)
    except TypeError:  # one for all steps
        rows = 1
    if rows != count:
        raise DataError(
            f"Expected as many rows in each part of a log of several episodes, {count}, got {rows}."
        )
    return value[low:high]


def _text(name: Any) -> str:
    """Returns the name of a column; levels of one are joined by "_"."""
    return "_".join(filter(None, map(str, name))) if isinstance(name, tuple) else str(name)


def _listed(values: np.ndarray) -> np.ndarray:
    texts = values.tolist()
    if not all(isinstance(text, str) and LISTED.fullmatch(text) for text in texts):
        return values
    try:
        return np.array([text.strip("[() ]\n").replace(",", " ").split() for text in texts], float)
    except ValueError:  # lists of other things, or of several lengths
        return values
