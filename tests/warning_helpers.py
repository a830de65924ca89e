"""Helper for tests that count warnings."""

from __future__ import annotations

import pytest


def of_test(caught):
    """Return the recorded warnings of the test itself.

    Garbage collection can run in any test, and warns there of files and sockets that other tests did not close.
    """
    garbage = ResourceWarning, pytest.PytestUnraisableExceptionWarning
    return [warning for warning in caught if not issubclass(warning.category, garbage)]
