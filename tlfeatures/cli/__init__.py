"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = (130, 143)  # exit codes after SIGINT and SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``tlfeatures``.

    Parameters
    ----------
    argv : sequence of str, optional
        Command-line arguments; by default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit code: 0 success; 1 failure, or damage was detected; 2 invalid arguments or input; 130 or 143 interrupted.

    Notes
    -----
    Errors are one line on standard error. ``TLFEATURES_DEBUG=1`` adds the traceback and the start-up messages
    of the backends.

    Examples
    --------
    >>> main(["--version"])
    tlfeatures ...
    0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        from tlfeatures.cli._app import app
        from tlfeatures.cli._session import session

        with session():
            code = app(args=argv or ["--help"], prog_name="tlfeatures", standalone_mode=False, obj=argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:
        return _discard_stdout()
    except Exception as error:
        from tlfeatures.cli._session import report_error

        return report_error(error)
    if code in _INTERRUPTED:
        from tlfeatures.cli._terminal import warn

        warn("interrupted; run the same command again to resume from what is stored.", "")
    return code if isinstance(code, int) else 0


def _discard_stdout() -> int:
    """Discard buffered output after a broken pipe (`| head`), so that the exit does not fail."""
    try:
        fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, sys.stdout.fileno())
        os.close(fd)
    except (OSError, ValueError, AttributeError):  # standard output is not a file
        pass
    return 1
