"""What the columns of a table are for, and what their values mean.

    target      named by the option `target`, else a column called target, label, class or y
    number      all values are numbers; the empty text, `NA`, `NaN`, `null` and `none` are missing ones
    category    bools, texts, and whatever the option `categorical` names; the empty text is a missing one
    left out    texts of which nearly every row has its own: names, notes, dates

All of this is read off the file as a whole; what depends on amounts is fitted on the training split (`encoding`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.domain.dataset import DatasetOptions
from app.domain.errors import DataError
from worker.engine.data.found import Array
from worker.engine.data.sheet import Sheet, listed

TARGET_NAMES = ("target", "label", "class", "y")
MISSING = pa.array(["", "na", "n/a", "nan", "null", "none"])
MOST_ARE_NUMBERS = 0.9
"""A column of which so many values are numbers is one of numbers with mistakes in it, not one of categories."""
MANY_CATEGORIES = 100
MANY_CATEGORIES_PER_ROW = 0.05
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
_FORMULA_MARKS = ("=", "@")


@dataclass(frozen=True)
class Numbers:
    """A column of amounts."""

    name: str
    values: Array
    """float32 `(n,)`; NaN where one is missing."""

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return int(np.isnan(self.values).sum())


@dataclass(frozen=True)
class Categories:
    """A column of names."""

    name: str
    codes: Array
    """int32 `(n,)`: positions in `distinct`."""
    distinct: list[str]
    """Every value of the column, sorted; the empty text is a missing one."""

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return int((self.codes == self.distinct.index("")).sum()) if "" in self.distinct else 0


Column = Numbers | Categories


# === Roles ===


def target_names(sheet: Sheet, options: DatasetOptions, *, what: str = "target") -> list[str]:
    """The columns to predict."""
    wanted = options.targets()
    if wanted:
        _require(sheet, wanted, "target")
        return wanted
    by_lower = {name.lower(): name for name in reversed(list(sheet.columns))}
    found = [by_lower[name] for name in TARGET_NAMES if name in by_lower]
    if not found:
        message = (
            f"Which column is to be predicted? None is called {', '.join(TARGET_NAMES)}. Set {what} to one of "
            f"{listed(list(sheet.columns))}."
        )
        raise DataError(message, param="target")
    return found[:1]


def feature_names(sheet: Sheet, targets: Collection[str], options: DatasetOptions) -> list[str]:
    """The columns to predict from, in the file's order."""
    for option in ("columns", "drop", "categorical"):
        named = getattr(options, option) or []
        _require(sheet, named, option)
        both = sorted(set(named) & set(targets))
        if both and option != "drop":
            message = f"The column '{both[0]}' is the target, so {option} cannot name it: a model would just copy it."
            raise DataError(message, param=option)
    chosen = set(options.columns or sheet.columns) - set(options.drop or ()) - set(targets)
    if not chosen:
        message = f"There is no column left to predict {listed(sorted(targets))} from. Name fewer in drop."
        raise DataError(message, param="drop" if options.drop else "columns")
    return [name for name in sheet.columns if name in chosen]


def _require(sheet: Sheet, names: Sequence[str], option: str) -> None:
    for name in names:
        if name not in sheet.columns:
            message = f"{option} names the column '{name}', which the file lacks. It has {listed(list(sheet.columns))}."
            raise DataError(message, param=option)


# === Types ===


def read_column(sheet: Sheet, name: str, options: DatasetOptions) -> Column | str:
    """The column's values, or why it is left out. DataError that names the row of a value that does not fit."""
    values = sheet.columns[name]
    if name in (options.categorical or ()):
        return categories(name, values)
    numbers = as_numbers(sheet, name)
    if numbers is None:
        return _few_categories(name, values, named=name in (options.columns or ()))
    column = Numbers(name, _float32(sheet, name, numbers))
    return "it has no values" if column.missing == len(sheet) else column


def categories(name: str, values: pa.ChunkedArray) -> Categories:
    """Any column as one of categories."""
    texts = pc.fill_null(values.cast(pa.string()), "").combine_chunks()
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    order = sorted(range(len(distinct)), key=lambda index: distinct[index])
    place = np.empty(len(distinct), np.int32)
    place[order] = np.arange(len(distinct), dtype=np.int32)
    codes = place[np.asarray(encoded.indices)]
    return Categories(name, codes, [distinct[index] for index in order])


def _few_categories(name: str, values: pa.ChunkedArray, *, named: bool) -> Categories | str:
    column = categories(name, values)
    count = len(column.distinct)
    if column.distinct == [""]:
        return "it has no values"
    if named or count <= max(MANY_CATEGORIES, MANY_CATEGORIES_PER_ROW * len(column.codes)):
        return column
    return f"it has {count:,} different texts; name it in categorical to use it"


def as_numbers(sheet: Sheet, name: str) -> Array | None:
    """float64 `(n,)` with NaN for what is missing, or `None` where the column holds texts."""
    values = sheet.columns[name]
    if pa.types.is_boolean(values.type):
        return None
    if not pa.types.is_string(values.type):
        return np.asarray(pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")))
    texts = pc.utf8_trim_whitespace(pc.fill_null(values, ""))
    missing = pc.is_in(pc.utf8_lower(texts), value_set=MISSING)
    fitting = pc.or_(missing, pc.match_substring_regex(texts, _NUMBER))
    _refuse_mistakes(sheet, name, texts, missing, fitting)
    if not pc.all(fitting).as_py():
        return None
    return np.asarray(pc.if_else(missing, "nan", texts).cast(pa.float64()))


def _refuse_mistakes(
    sheet: Sheet, name: str, texts: pa.ChunkedArray, missing: pa.ChunkedArray, fitting: pa.ChunkedArray
) -> None:
    """DataError for a column of numbers that has some values which are none, or decimal commas."""
    given = len(texts) - (pc.sum(missing).as_py() or 0)
    wrong = len(texts) - (pc.sum(fitting).as_py() or 0)
    commas = pc.sum(pc.match_substring_regex(texts, _DECIMAL_COMMA)).as_py() or 0
    with_commas = commas > 0 and commas >= MOST_ARE_NUMBERS * wrong
    if not with_commas and (not wrong or given - wrong < MOST_ARE_NUMBERS * given):
        return
    index = pc.index(fitting, value=False).as_py()
    value = texts[index].as_py()
    others = f" ({wrong} rows are so)" if wrong > 1 else ""
    message = f"Column '{name}', {sheet.row(index)}{others}: {value[:60]!r} {_advice(value, with_commas)}."
    raise DataError(message)


def _advice(value: str, with_commas: bool) -> str:  # noqa: FBT001 (private)
    if with_commas:
        return "has a decimal comma; write decimal points"
    if value.startswith(_FORMULA_MARKS):
        return "is a formula of a spreadsheet; save the table with the values of its formulas"
    return "is no number as the others are; repair it, leave it empty, or name the column in categorical"


def _float32(sheet: Sheet, name: str, numbers: Array) -> Array:
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        index = int(infinite.argmax())
        message = (
            f"Column '{name}', {sheet.row(index)}: {numbers[index]:g} is infinite or too large for float32. "
            "Repair the value or leave it empty."
        )
        raise DataError(message)
    return values


# === Targets ===


def read_targets(sheet: Sheet, names: Sequence[str]) -> Array:
    """Strings, whole numbers or floats `(n,)`; of several columns float64 `(n, t)`. DataError for missing values."""
    if len(names) == 1:
        return _target(sheet, names[0])
    columns = [_target(sheet, name) for name in names]
    for name, values in zip(names, columns, strict=True):
        if values.dtype.kind not in "iuf":
            message = f"Several targets must be columns of numbers; '{name}' holds texts such as {str(values[0])!r}."
            raise DataError(message, param="target")
    return np.stack(columns, axis=1)


def _target(sheet: Sheet, name: str) -> Array:
    numbers = as_numbers(sheet, name)
    if numbers is None:
        column = categories(name, sheet.columns[name])
        _refuse_missing(sheet, name, np.array([text.strip() == "" for text in column.distinct])[column.codes])
        return np.array([text.strip() for text in column.distinct])[column.codes]
    _refuse_missing(sheet, name, np.isnan(numbers))
    _float32(sheet, name, numbers)
    whole = _written_whole(sheet.columns[name]) and np.abs(numbers).max() < 2**53
    return numbers.astype(np.int64) if whole else numbers


def _written_whole(values: pa.ChunkedArray) -> bool:
    """Whether the file has them as whole numbers: `5`, not `5.0`."""
    if not pa.types.is_string(values.type):
        return bool(pa.types.is_integer(values.type))
    return bool(pc.all(pc.match_substring_regex(pc.utf8_trim_whitespace(values), r"^[+-]?\d+$")).as_py())


def _refuse_missing(sheet: Sheet, name: str, missing: Array) -> None:
    if missing.any():
        message = (
            f"The target column '{name}' has no value in {sheet.row(int(missing.argmax()))} ({int(missing.sum())} such "
            "rows). Fill it or remove those rows."
        )
        raise DataError(message, param="target")
