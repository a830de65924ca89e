"""Pages for a search, an audit, suggestions and maps: HTML, and the same content as PNG, CSV and JSON files."""

from tlfeatures.report._audit import is_audit, write_audit
from tlfeatures.report._maps import write_maps_page
from tlfeatures.report._predictions import draw_predictions
from tlfeatures.report._suggestions import is_suggestions, write_suggestions
from tlfeatures.report._tables import map_embeddings
from tlfeatures.report._write import is_report, make_environment, write_report

__all__ = [
    "draw_predictions",
    "is_audit",
    "is_report",
    "is_suggestions",
    "make_environment",
    "map_embeddings",
    "write_audit",
    "write_maps_page",
    "write_report",
    "write_suggestions",
]
