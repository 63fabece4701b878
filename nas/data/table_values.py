"""Types of columns, and their values as labels: ClassLabel, numbers, texts, booleans, one-hot lists.

`nas.data.tables` calls `column_of` and `as_labels`. Imports pyarrow inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.data.columns import Column
from nas.data.labels import RawLabels
from nas.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def column_of(field: pa.Field, feature: Any, is_index: bool) -> Column:
    """Return what a column may be.

    Args:
        field: of the schema.
        feature: what the hub's metadata says of it, or None.
        is_index: whether it is an index of pandas.
    """
    import pyarrow as pa

    kind = field.type
    declared = feature if isinstance(feature, dict) else {}
    names = declared.get("names") if declared.get("_type") == "ClassLabel" else None
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = _is_text(value)
    label = (
        text
        or pa.types.is_integer(value)
        or pa.types.is_boolean(value)
        or pa.types.is_dictionary(kind)
    )
    return Column(
        name=field.name,
        type=str(kind),
        is_image=declared.get("_type") == "Image",
        is_encoded=_is_encoded(kind),
        is_text=text,
        is_label=label,
        names=tuple(map(str, names)) if isinstance(names, list) else None,
        is_index=is_index,
    )


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_encoded(kind: pa.DataType) -> bool:
    """Return whether a column may hold encoded images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return "bytes" in names and names <= {"bytes", "path"}
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def as_labels(where: str, column: Column, values: pa.ChunkedArray) -> RawLabels:
    """Return the values of a column as labels. None, NaN and -1 are no label.

    Args:
        where: file and data set, for messages.
        column: what is declared of it.
        values: of the column.

    Raises:
        InputError: for a type or a value that is no label.
    """
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    what = f"{where}: column '{column.name}'"
    if pa.types.is_null(kind):
        return RawLabels((), np.full(len(values), -1, dtype=np.int64))
    if _is_text(kind):
        return _texts(values)
    if pa.types.is_boolean(kind):
        known = values.fill_null(False).to_numpy().astype(np.int64)
        return _numbers(what, np.where(_nulls(values), -1, known), column, ("False", "True"))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _numbers(what, _one_hot(what, values), column)
    if pa.types.is_floating(kind):
        return _numbers(what, _whole(what, kind, values), column)
    if pa.types.is_integer(kind):
        filled = values.fill_null(-1) if values.null_count else values
        return _numbers(what, filled.to_numpy(), column)
    raise InputError(
        f"{what} has the type {kind}, which is no label (expected whole numbers, texts, booleans,"
        " one-hot lists or the hub's ClassLabel)"
    )


def _texts(values: pa.ChunkedArray) -> RawLabels:
    """Return labels from texts."""
    encoded = values.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    ids = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    # As in a metadata.csv, an empty text is no label.
    empty = [position for position, name in enumerate(names) if not name.strip()]
    ids[np.isin(ids, empty)] = -1
    return RawLabels(tuple(names), ids)


def _numbers(
    what: str, values: NDArray[Any], column: Column, names: tuple[str, ...] | None = None
) -> RawLabels:
    """Return labels from whole numbers; those of a ClassLabel have names.

    Raises:
        InputError: for a number that the names do not have.
    """
    declared = column.names if column.names is not None else names
    if declared is not None:
        beyond = values[(values < -1) | (values >= len(declared))]
        if len(beyond):
            raise InputError(
                f"{what} has the label {beyond[0]}, but {len(declared)} names (expected -1 to"
                f" {len(declared) - 1})"
            )
        return RawLabels(declared, values.astype(np.int64), column.names is not None)
    unique, ids = np.unique(values, return_inverse=True)
    texts = [str(value) for value in unique.tolist()]
    ids = ids.astype(np.int64).reshape(-1)
    ids[values == -1] = -1
    return RawLabels(tuple(texts), ids, numeric=True)


def _whole(what: str, kind: pa.DataType, values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return whole numbers from floats; NaN and None become -1.

    Raises:
        InputError: for a number that is not whole.
    """
    numbers = values.to_numpy().astype(np.float64)
    numbers = np.where(np.isnan(numbers), -1.0, numbers)
    odd = numbers[(numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53)]
    if len(odd):
        raise InputError(
            f"{what} has the type {kind} and the value {odd[0]:g}, which is no label (expected"
            " whole numbers)"
        )
    return numbers.astype(np.int64)


def _one_hot(what: str, values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the position of the one in each list; -1 for None and for lists of zeros.

    A list of one value is that value.

    Raises:
        InputError: for lists of different lengths, and for lists with several ones.
    """
    rows = values.to_pylist()
    lengths = {len(row) for row in rows if row is not None}
    if len(lengths) > 1:
        raise InputError(
            f"{what} has lists of different lengths ({min(lengths)} to {max(lengths)}), which are no"
            " labels (expected one-hot lists of equal lengths)"
        )
    try:
        table = np.array([row for row in rows if row is not None], dtype=np.float64)
    except (TypeError, ValueError):
        table = np.zeros((0, 0, 0))
    if table.ndim != 2 or bool(np.any(np.isnan(table))):
        raise InputError(
            f"{what} has the type {values.type}, which is no label (expected one-hot lists of 0"
            " and 1)"
        )
    result = np.full(len(rows), -1, dtype=np.int64)
    there = np.array([row is not None for row in rows], dtype=bool)
    single = table.shape[1] == 1
    if single:
        bad = table[:, 0] != np.floor(table[:, 0])
    else:
        bad = (np.sum(table != 0, axis=1) > 1) | np.any((table != 0) & (table != 1), axis=1)
    if bool(np.any(bad)):
        shown = [f"{value:g}" for value in table[int(np.argmax(bad))][:8]]
        raise InputError(
            f"{what} has the list [{', '.join(shown)}], which is not one-hot (expected a single 1"
            " among zeros)"
        )
    ones = np.where(np.any(table == 1, axis=1), np.argmax(table, axis=1), -1)
    result[there] = table[:, 0] if single else ones
    return result


def _nulls(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = values.is_null().to_numpy()
    return nulls
