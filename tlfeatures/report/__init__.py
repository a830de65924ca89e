"""The report of a search: a page that shows everything, beside it the same as PNG, CSV and JSON."""

from tlfeatures.report.write import write_report

__all__ = ["write_report"]
