"""Helper for tests that count warnings."""

from __future__ import annotations

import sysconfig

import pytest

KERAS = tuple(f"{sysconfig.get_path('purelib')}/{name}" for name in ("keras", "tensorflow"))


def of_test(caught):
    """Return the recorded warnings of the test itself.

    Garbage collection can run in any test, and warns there of files and sockets that other tests did not close. Keras
    warns when it builds a network, which is the first test that needs it.
    """
    garbage = ResourceWarning, pytest.PytestUnraisableExceptionWarning
    return [
        warning
        for warning in caught
        if not issubclass(warning.category, garbage) and not warning.filename.startswith(KERAS)
    ]
