"""Helpers for tests of warnings."""

from __future__ import annotations

import contextlib
import gc
import sysconfig
import warnings

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


@contextlib.contextmanager
def warnings_as_errors():
    """Turn warnings into errors in the block, where the garbage of other tests is not collected.

    Otherwise the files and sockets that other tests did not close make a test fail by chance. Garbage of the block
    itself is collected, so what it does not close is an error.
    """
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        gc.unfreeze()
