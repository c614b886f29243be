"""Tables of images: CSV or Parquet files with the columns path and label, and optionally split and group."""

from __future__ import annotations

import codecs
import csv
import io
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from graft.config.regular_file import read_regular_file
from graft.data.storage import Storage
from graft.errors import DataError, error_summary, printable

SUFFIXES = (".csv", ".tsv", ".parquet")
COLUMNS = ["path", "label", "split", "group"]
REQUIRED = {"path", "label"}
SEPARATORS = ",;\t|"
MAX_TABLE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class ImageTable:
    """The rows of a table, with the columns ``COLUMNS`` as text, missing values empty; and remarks on the reading."""

    rows: pd.DataFrame
    remarks: list[str]


def read_table(root: str, storage: Storage, name: str) -> ImageTable:
    """Read the table ``name`` in a storage; raises ``DataError``, which calls it ``root``, if it is not one."""
    (file,) = storage.stat([name])
    where = printable(root)
    if problem := file.problem or storage.fetch([file]).get(name):
        raise DataError(f"{where}: {problem}; give a CSV or Parquet file.")
    try:
        content = read_regular_file(storage.folder / name, MAX_TABLE_BYTES)
        is_parquet = name.lower().endswith(".parquet")
        table = pd.read_parquet(io.BytesIO(content)) if is_parquet else _read_csv(content)
    # The readers raise errors of several libraries for damaged content.
    except Exception as error:
        raise DataError(
            f"{where}: cannot be read as a table ({error_summary(error)}); give a CSV file in UTF-8 or a Parquet file."
        ) from error
    table = table.reset_index() if table.index.name else table
    names = [str(name).strip().lower() for name in table.columns]
    if repeated := [name for name in COLUMNS if names.count(name) > 1 or f"{name}.1" in names]:
        raise DataError(f"{where}: has the column {repeated[0]} twice; remove or rename one of them.")
    if missing := REQUIRED - set(names):
        raise DataError(
            f"{where}: lacks the column {' and '.join(sorted(missing))}; it needs path and label, and has "
            f"{printable(', '.join(names))[:200]}."
        )
    table.columns = pd.Index(names)
    table = table.reset_index(drop=True).reindex(columns=COLUMNS)
    for column in COLUMNS:
        if any(isinstance(value, list | dict | np.ndarray) for value in table[column]):
            raise DataError(f"{where}: the column {column} holds lists or records; it must hold text or numbers.")
    table = table.apply(_as_text)
    stripped = table.assign(**{column: table[column].str.strip() for column in COLUMNS if column != "path"})
    _check_no_missing_values(where, stripped)
    padded = int((stripped["label"] != table["label"]).sum())
    return ImageTable(stripped, [f"Blanks around {padded:,} labels of the table are ignored."] if padded else [])


def _read_csv(content: bytes) -> pd.DataFrame:
    """A CSV file as text, in UTF-8 or, with a byte-order mark, UTF-16; spaces after a separator are ignored."""
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf_16 else "utf-8-sig"
    start = content[: 1 << 16].decode(encoding, errors="replace").lstrip("\r\n")
    # A ParserWarning means that rows are longer than the header.
    with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
        return pd.read_csv(
            io.BytesIO(content), sep=_separator(start), dtype=str, keep_default_na=False, encoding=encoding,
            index_col=False, skipinitialspace=True,
        )  # fmt: skip


def _separator(text: str) -> str:
    """The separator with which the first line has the required columns; a comma if none does."""
    header = text.splitlines()[:1]
    for separator in SEPARATORS:
        for names in csv.reader(header, delimiter=separator, skipinitialspace=True):
            if {name.strip().lower() for name in names} >= REQUIRED:
                return separator
    return ","


def _as_text(column: pd.Series) -> pd.Series:
    """A column as text, missing values as ``""``; a missing value makes integers float, so whole numbers lose ".0"."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all() and column.abs().max() < 2**53:
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str)


def _check_no_missing_values(where: str, table: pd.DataFrame) -> None:
    for column in ("path", "label"):
        if (empty := table.index[table[column].str.strip() == ""]).size:
            raise DataError(f"{where}: row {int(empty[0]) + 1} has no {column}; give it one or remove the row.")
