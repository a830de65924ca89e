"""Imports of Keras without the start-up messages of its backends."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from tlfeatures import _keras

__all__ = ["quiet_imports"]


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Hide the start-up messages of backends, unless their import fails; restore all settings."""
    added = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are raised as exceptions
    logger, import_context = logging.getLogger("tensorflow"), _keras.import_context
    level = logger.level
    logger.setLevel(logging.ERROR)
    _keras.import_context = _muted_import
    try:
        yield
    finally:
        _keras.import_context = import_context
        logger.setLevel(level)
        if added:
            os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)


@contextlib.contextmanager
def _muted_import() -> Iterator[None]:
    """Redirect file descriptor 2 to a temporary file, whose content is printed if an exception is raised."""
    if "keras" in sys.modules:  # imported already
        yield
        return
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (OSError, ValueError, AttributeError):  # standard error is closed
        yield
        return
    enable = not faulthandler.is_enabled()
    if enable:
        faulthandler.enable(file=stderr)  # reports crashes of native code
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except BaseException:
            output.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, output.read())
            raise
        finally:
            if enable:
                faulthandler.disable()
            os.dup2(stderr, 2)
            os.close(stderr)
