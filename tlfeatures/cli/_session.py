"""One run of the command: warnings and errors as lines, backends that start in silence."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tlfeatures import _keras
from tlfeatures.cli._terminal import warn
from tlfeatures.errors import DuplicateImagesWarning, OutOfMemoryError, UnreadableImagesWarning

__all__ = ["BadArgument", "report_error", "session"]

# parameters whose options have another name than the parameter
_OPTIONS = {"n_jobs": "--jobs", "random_state": "--seed", "models": "--model"}
_NONE = {"weights": "random", "cache": "none"}  # what an option calls the value None


class BadArgument(ValueError):
    """An option or argument that cannot be as it is; the text says what to do."""


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Print each warning as one line, once, and mute start-up messages of backends; restores all settings."""
    with warnings.catch_warnings(), _silent_start(), _lenient_output(), _orderly_end():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        for category in (
            UnreadableImagesWarning,
            DuplicateImagesWarning,
        ):  # commands name the images themselves
            warnings.simplefilter("ignore", category)
        printed: set[str] = set()

        def show(message: Any, *_: Any, **__: Any) -> None:
            if (text := _name_options(str(message))) not in printed:
                printed.add(text)
                warn(text)

        warnings.showwarning = show
        yield


def report_error(error: Exception) -> int:
    """Print one line for ``error``; the exit code."""
    if os.environ.get("TLFEATURES_DEBUG"):
        traceback.print_exc()
    if hasattr(error, "format_message"):  # of the parser, wherever this version of typer keeps it
        text = error.format_message().strip()
        full_stop = "" if text.endswith((".", "?")) else "."
        warn(f"{text}{full_stop} See `{_command_of(error)} --help`.", "error: ")
        return 2
    if type(error).__name__ == "Abort":  # end of input at a question
        warn("not confirmed; --yes goes ahead without asking.", "error: ")
        return 1
    text = _name_options(_text(error))
    if not isinstance(error, (ValueError, OSError, ImportError, ArithmeticError, MemoryError)):
        text = f"{type(error).__name__}: {text} (TLFEATURES_DEBUG=1 shows where)"
    warn(text, "error: ")
    return 2 if isinstance(error, ValueError) else 1


def _name_options(text: str) -> str:
    """Write the parameters that a message of the library has in backticks as options of the command line.

    >>> _name_options("Pass `weights='my.h5'`, or `weights=None`; `n_jobs` and `nested=True` are others.")
    'Pass --weights my.h5, or --weights random; --jobs and --nested are others.'
    >>> _name_options("Use `fit(X)`, see `check_images`, or leave out `patience=3`.")
    'Use `fit(X)`, see `check_images`, or leave out --patience 3.'
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
        if option not in _known_options():
            return match[0]
        if value in (None, "True"):
            return option
        if value == "None":
            return f"{option} {_NONE[name]}" if name in _NONE else f"no {option}"
        return f"{option} {value.strip(chr(39))}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", replace, text)


@functools.cache
def _known_options() -> frozenset[str]:
    """The long options of all commands."""
    from typer.main import get_command

    from tlfeatures.cli._app import app

    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    return frozenset(name for command in commands for parameter in command.params for name in parameter.opts)


def _command_of(error: Any) -> str:
    """The command whose arguments were wrong."""
    return getattr(getattr(error, "ctx", None), "command_path", "tlfeatures")


def _text(error: Exception) -> str:
    if isinstance(error, MemoryError) and not isinstance(error, OutOfMemoryError):
        return "out of memory; a smaller --batch-size needs less"
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 13]"
        name = "" if error.filename is None else f": {os.fsdecode(error.filename)!r}"
        return f"{error.strerror}{name}"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """A request to end (of a batch system, say) unwinds as Ctrl-C does: rows in memory reach the store."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _lenient_output() -> Iterator[None]:
    """Print file names that are not valid text with escapes instead of failing."""
    stream = sys.stdout
    before = getattr(stream, "errors", None)
    if before is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            stream.reconfigure(errors=before)


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """Keep what backends write to file descriptor 2 while they are imported off the terminal."""
    if os.environ.get("TLFEATURES_DEBUG"):
        yield
        return
    added = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # failures come as exceptions all the same
    logger, importing = logging.getLogger("tensorflow"), _keras.importing
    level = logger.level
    logger.setLevel(logging.ERROR)
    _keras.importing = _muted
    try:
        yield
    finally:
        _keras.importing = importing
        logger.setLevel(level)
        if added:
            os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """File descriptor 2 goes to a file; an exception brings out what was written there."""
    if "keras" in sys.modules:  # started already
        yield
        return
    try:
        sys.stderr.flush()
        real = os.dup(2)
    except (OSError, ValueError, AttributeError):  # closed: nothing to see anyway
        yield
        return
    watch = not faulthandler.is_enabled()
    if watch:
        faulthandler.enable(file=real)  # a crash of native code must not be silent
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except BaseException:
            output.seek(0)
            with contextlib.suppress(OSError):
                os.write(real, output.read())
            raise
        finally:
            if watch:
                faulthandler.disable()
            os.dup2(real, 2)
            os.close(real)
