"""Context of one command: warnings and errors as single lines, no start-up messages of backends."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tlfeatures._keras.quiet import quiet_imports
from tlfeatures.cli._terminal import warn
from tlfeatures.errors import DuplicateImagesWarning, OutOfMemoryError, UnreadableImagesWarning

__all__ = ["report_error", "session"]

_NONE = {"weights": "random", "cache": "none"}  # values of options that mean None
_DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_REPORTED_BY_COMMANDS = (UnreadableImagesWarning, DuplicateImagesWarning)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Print each warning once, as one line, and suppress start-up messages of backends; restore all settings."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        if not os.environ.get("TLFEATURES_DEBUG"):
            stack.enter_context(quiet_imports())
        if hasattr(stream := sys.stdout, "reconfigure"):  # escape what standard output cannot encode
            stack.callback(_set_errors, stream, stream.errors)
            _set_errors(stream, "backslashreplace")
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _exit))
        for category in (*_DEPRECATIONS, *_REPORTED_BY_COMMANDS):
            warnings.simplefilter("ignore", category)
        printed: set[str] = set()

        def show(message: Any, *_: Any, **__: Any) -> None:
            if (text := _name_options(str(message))) not in printed:
                printed.add(text)
                warn(text)

        warnings.showwarning = show
        yield


def _set_errors(stream: Any, errors: str) -> None:
    """Set how a stream encodes characters that it does not have, unless it is closed."""
    with contextlib.suppress(ValueError, OSError):
        stream.reconfigure(errors=errors)


def _exit(*_: Any) -> None:
    """Exit on SIGTERM, so that rows in memory are written to the store as after Ctrl-C."""
    raise SystemExit(128 + signal.SIGTERM)


def report_error(error: Exception) -> int:
    """Print an error as one line; return the exit code."""
    if os.environ.get("TLFEATURES_DEBUG"):
        traceback.print_exc()
    if hasattr(error, "format_message"):  # an error of typer's parser
        text = error.format_message().strip()
        full_stop = "" if text.endswith((".", "?")) else "."
        command = getattr(getattr(error, "ctx", None), "command_path", "tlfeatures")
        warn(f"{text}{full_stop} See `{command} --help`.", "error: ")
        return 2
    if type(error).__name__ == "Abort":  # the question was not answered by yes
        warn("not confirmed; pass --yes to skip the question.", "error: ")
        return 1
    text = _name_options(_describe_error(error))
    if not isinstance(error, (ValueError, OSError, ImportError, ArithmeticError, MemoryError)):
        text = f"{type(error).__name__}: {text} (TLFEATURES_DEBUG=1 prints the traceback)"
    warn(text, "error: ")
    return 2 if isinstance(error, ValueError) else 1


def _name_options(text: str) -> str:
    """Replace the parameters in backticks in a message of the library by options of the command line.

    >>> _name_options("Pass `weights='my.h5'`, or `weights=None`; `n_jobs` and `nested=True` are others.")
    'Pass --weights my.h5, or --weights random; --jobs and --nested are others.'
    >>> _name_options("Use `fit(X)`, see `check_images`, or leave out `patience=3`.")
    'Use `fit(X)`, see `check_images`, or leave out --patience 3.'
    >>> _name_options("Pass one of `models`, `n_repeats=2`, or `class_weight='balanced'`.")
    'Pass one of --model, --repeats 2, or --balanced.'
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _list_options():
            return match[0]
        option, is_flag = _list_options()[name]
        if is_flag or value in (None, "True"):
            return option
        if value == "None":
            return f"{option} {_NONE[name]}" if name in _NONE else f"no {option}"
        return f"{option} {value.strip(chr(39))}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", replace, text)


@functools.cache
def _list_options() -> dict[str, tuple[str, bool]]:
    """Return the option, and whether it is a flag, by the name of its parameter, for all commands."""
    from typer.main import get_command

    from tlfeatures.cli._app import app

    commands = list(get_command(app).commands.values())  # type: ignore[attr-defined]
    commands += [each for group in commands for each in getattr(group, "commands", {}).values()]
    options = [each for command in commands for each in command.params if each.param_type_name == "option"]
    return {option.name: (option.opts[0], option.is_flag) for option in options}


def _describe_error(error: Exception) -> str:
    if isinstance(error, MemoryError) and not isinstance(error, OutOfMemoryError):
        return "out of memory; pass a smaller --batch-size"
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 13]"
        name = "" if error.filename is None else f": {os.fsdecode(error.filename)!r}"
        return f"{error.strerror}{name}"
    return str(error) or type(error).__name__
