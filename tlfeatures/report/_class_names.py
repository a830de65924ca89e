"""Labels of figures: fonts for the characters of class names, and numbers for names that no font can show."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.font_manager import fontManager, get_font

_FIRST_FONT = "DejaVu Sans"  # installed with matplotlib
_STYLE = {
    "figure.dpi": 150, "savefig.dpi": 150, "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#767676", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "lines.linewidth": 1.6,
    "axes.titlelocation": "left", "axes.titleweight": "bold",
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
}  # fmt: skip


@cache
def _list_fonts() -> dict[str, str]:
    """Return the path of the regular face of each installed font family, except for fonts that draw placeholders."""
    faces = [f for f in fontManager.ttflist if f.style == "normal" and f.weight in (400, "normal", "regular")]
    faces = sorted((f for f in faces if not f.name.startswith("Last Resort")), key=lambda face: face.name)
    return {face.name: face.fname for face in reversed(faces)}


@cache
def _get_characters(path: str) -> frozenset[int]:
    """Return the code points of a font; none if matplotlib cannot scale the font, such as fonts of colored emoji."""
    with contextlib.suppress(OSError, RuntimeError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        font = get_font(path)
        if font.scalable:
            return frozenset(font.get_charmap())
    return frozenset()


class Labels:
    """Display names of classes in figures.

    Parameters
    ----------
    names : iterable
        Class names.

    Attributes
    ----------
    fonts : list of str
        Font families for the characters of the names.
    numbered : dict of str to str
        Names that no installed font can show, by the label that replaces them, such as "#3".
    """

    def __init__(self, names: Iterable[Any]) -> None:
        names = [str(name) for name in names]
        available = {_FIRST_FONT, *self._find_fonts({ord(c) for name in names for c in _printable(name)})}
        self.fonts = [_FIRST_FONT, *sorted(available - {_FIRST_FONT})]
        paths = _list_fonts()
        covered = frozenset().union(*(_get_characters(paths[font]) for font in self.fonts if font in paths))
        self.numbered = {
            f"#{i}": name
            for i, name in enumerate(names, 1)
            if not all(ord(c) in covered for c in _printable(name)) or _is_misordered(name)
        }
        self._labels = {name: label for label, name in self.numbered.items()}

    @staticmethod
    def _find_fonts(characters: set[int]) -> list[str]:
        """Select families for the characters that the first font lacks, the family with most of them first."""
        paths = _list_fonts()
        missing = characters - _get_characters(paths.get(_FIRST_FONT, ""))
        fonts = []
        while missing:
            best = max(paths, key=lambda family: len(missing & _get_characters(paths[family])))
            if not missing & _get_characters(paths[best]):
                break
            fonts.append(best)
            missing -= _get_characters(paths[best])
        return fonts

    def __call__(self, name: Any, max_length: int = 26) -> str:
        """Return the label of a class, at most ``max_length`` characters long."""
        label = self._labels.get(str(name)) or shorten(name, max_length)
        return f" {label}" if label.startswith("_") else label  # legends omit labels that start with "_"

    @contextlib.contextmanager
    def style(self) -> Iterator[None]:
        """Apply the style and the fonts of the figures; the user's settings are restored afterwards."""
        with matplotlib.style.context(["default", {**_STYLE, "font.family": self.fonts}]):
            yield

    @property
    def note(self) -> str:
        """Sentence for captions if classes are numbered."""
        return " Classes that no installed font can show have numbers; see the list." if self.numbered else ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _is_misordered(name: str) -> bool:
    """Whether this matplotlib, before version 3.11, draws a right-to-left name in the wrong order."""
    version = tuple(int(part) for part in matplotlib.__version__.split(".")[:2])
    return version < (3, 11) and any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)


def shorten(name: Any, max_length: int = 26) -> str:
    """Return the beginning and the end of a long name.

    >>> shorten("a name that is much too long", 12)
    'a name …long'
    """
    text = _printable(str(name))
    if len(text) <= max_length:
        return text
    return f"{text[: max_length * 2 // 3 - 1]}…{text[-(max_length // 3) :]}"
