"""A fitted model as a local web page and as a REST service, both safe by default."""

from __future__ import annotations

from tlfeatures.app._access import AccessPolicy
from tlfeatures.app._journal import Journal, JournalError
from tlfeatures.app._limits import Limits
from tlfeatures.app._model import ServedModel
from tlfeatures.app._server import run_server
from tlfeatures.app._service import make_service

__all__ = ["AccessPolicy", "Journal", "JournalError", "Limits", "ServedModel", "make_service", "run_server"]
