"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_ENDED = (130, 143)  # by Ctrl-C, by a request to end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``tlfeatures``; this is its entry point.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 done; 1 failed, or damage was found; 2 wrong arguments or input; 130 or 143 interrupted.

    Notes
    -----
    Errors are one line on standard error. ``TLFEATURES_DEBUG=1`` adds the traceback, and shows what the
    backends print when they start.

    Examples
    --------
    >>> main(["--version"])
    tlfeatures ...
    0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        from tlfeatures.cli.app import app
        from tlfeatures.cli.session import session

        with session():
            code = app(args=argv or ["--help"], prog_name="tlfeatures", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:
        return _hush_stdout()
    except Exception as error:
        from tlfeatures.cli.session import report_error

        return report_error(error)
    if code in _ENDED:
        from tlfeatures.cli.terminal import warn

        warn("interrupted; what reached the store stays there, and the same command goes on from it.", "")
    return code if isinstance(code, int) else 0


def _hush_stdout() -> int:
    """The reader has gone (`| head`): what is still buffered must not fail at exit."""
    try:
        fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, sys.stdout.fileno())
        os.close(fd)
    except (OSError, ValueError, AttributeError):  # no real file behind it
        pass
    return 1
