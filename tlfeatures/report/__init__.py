"""Reports of a search, an audit and maps: an HTML page, and the same content as PNG, CSV and JSON files."""

from tlfeatures.report._audit import is_audit, write_audit
from tlfeatures.report._maps import write_maps_page
from tlfeatures.report._write import is_report, write_report

__all__ = ["is_audit", "is_report", "write_audit", "write_maps_page", "write_report"]
