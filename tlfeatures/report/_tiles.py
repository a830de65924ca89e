"""Images that a report shows, with their previews."""

from __future__ import annotations

import base64
import re
from typing import Any

import pandas as pd

from tlfeatures._inputs import is_missing
from tlfeatures.results import AuditResult, Suggestions

__all__ = ["list_tiles"]


def list_tiles(result: AuditResult | Suggestions) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table that are shown, with their previews and short names."""

    def tiles(table: pd.DataFrame) -> list[dict[str, Any]]:
        rows = table.to_dict("records")
        for row in rows:
            jpeg = result.thumbnails.get(row["row"])
            row["thumbnail"] = None if jpeg is None else base64.b64encode(jpeg).decode()
            row["label"] = None if is_missing(row.get("label")) else row["label"]
            row["name"] = "/".join(re.split(r"[\\/]", str(row["image"]))[-2:])
        return rows

    return {name: tiles(table) for name, table in result.select_shown().items()}
