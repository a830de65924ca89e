"""The table of a study: one row for each recipe, with its scores and its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

__all__ = ["ResultTable"]


class ResultTable:
    """Measure recipes one after the other and collect their scores and times.

    Attributes
    ----------
    rows : list of dict
        ``recipe``, the values that were set within the ``with`` block, and ``seconds``.

    Examples
    --------
    >>> table = ResultTable()
    >>> with table.measure("always the most frequent class") as row:
    ...     row["accuracy"] = 0.5
    >>> table.to_frame().columns.tolist()
    ['recipe', 'accuracy', 'seconds']
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def measure(self, recipe: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Time a ``with`` block and add its row, unless it raises an exception.

        Parameters
        ----------
        recipe : str
            What is measured, such as "Keras: the tutorial's recipe".
        **values
            Further columns.

        Yields
        ------
        dict
            The row; set scores in it.
        """
        row: dict[str, Any] = {"recipe": recipe, **values}
        start = time.perf_counter()
        yield row
        row["seconds"] = round(time.perf_counter() - start, 1)
        self.rows.append(row)

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows as a table with scores rounded to four digits; ``seconds`` is its last column.

        Returns
        -------
        pandas.DataFrame
            One row for each recipe.
        """
        import pandas

        frame = pandas.DataFrame(self.rows).round(4)
        return frame[[*(name for name in frame if name != "seconds"), "seconds"]] if len(frame) else frame

    def __repr__(self) -> str:
        return self.to_frame().to_string(index=False) if self.rows else "no rows"

    def _repr_html_(self) -> str:
        """Return the table for notebooks, with long names in full."""
        import pandas

        with pandas.option_context("display.max_colwidth", None):
            return self.to_frame().to_html(index=False, border=0)
