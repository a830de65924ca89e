"""Report of a feature search: an HTML page and the same content as PNG, CSV and JSON files."""

from tlfeatures.report._write import is_report, write_report

__all__ = ["is_report", "write_report"]
