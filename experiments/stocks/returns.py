"""Daily returns of stocks: those of the S&P 500 that ship inside skfolio, or a file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from skfolio.datasets import load_sp500_dataset
from skfolio.preprocessing import prices_to_returns

from ordergrad.runs.errors import UserError


@cache
def load(path: Path | None) -> pd.DataFrame:
    """Return daily returns, one column a stock, indexed by date.

    Raises:
        UserError: The file is missing, or is not a table of returns.
    """
    if path is None:
        return prices_to_returns(load_sp500_dataset())
    if not path.exists():
        raise UserError(f"--data {path} does not exist")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise UserError(f"--data must be a .csv or .parquet file; got {path.name}")
    table = readers[path.suffix](path)
    if not isinstance(table.index, pd.DatetimeIndex):
        if table.shape[1] < 3:
            raise UserError(
                f"{path} must have a column of dates and at least two of returns; got {list(table.columns)}"
            )
        try:
            table = table.set_index(pd.to_datetime(table.iloc[:, 0], format="ISO8601")).iloc[:, 1:]
        except (ValueError, TypeError) as error:
            first = f"{table.columns[0]!r} (such as {table.iloc[0, 0]!r})"
            raise UserError(f"the first column of {path} must hold dates, YEAR-MONTH-DAY; got {first}") from error
    words = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        raise UserError(f"all columns of {path} after the dates must be numbers; not so: {', '.join(words)}")
    gaps = [str(name) for name in table.columns if not np.isfinite(table[name]).all()]
    if gaps:
        raise UserError(f"{path} has missing or infinite returns in {', '.join(gaps)}; fill or drop them first")
    if not table.index.is_monotonic_increasing or table.index.has_duplicates:
        raise UserError(f"the dates of {path} must increase from row to row")
    if float(table.to_numpy().min()) <= -1 or float(table.abs().median().median()) > 0.5:
        raise UserError(
            f"{path} must hold simple returns (0.01 for 1%), above -1; the values look like prices or percent"
        )
    return table.astype(float)
