"""The words of CONTRIBUTING.md's conventions: plain English, the same word for the same thing everywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tlfeatures

ROOT = Path(tlfeatures.__file__).parents[1]
FOLDERS = ("tlfeatures", "tests", "benchmarks", "pipelines", "notebooks", "docs")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".html", ".ipynb") and path.name != Path(__file__).name
    and "_build" not in path.parts
) + sorted(ROOT.glob("*.md")) + [ROOT / "conftest.py", ROOT / "Makefile", ROOT / "pyproject.toml"]  # fmt: skip


# not this -> but that
PHRASES = {
    r"\b(the )?(house|shop window)\b": "package, public API",
    r"\b(in|of|its|one|each|own) (room|rooms|door|doors)\b": "module, adapter",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bis no (path|number|folder|file|image|network|model|class)\b": "is not a ...",
    r"\bare no (paths|numbers|files|images)\b": "must be ...",
    r"\b(so|as) many (augmented|images|rows|views|epochs|files|acknowledgements)\b": "number of ...",
    r"\bgo(es|ing)? on after\b": "resume after interruption",
    r"\bhang together\b": "form a duplicate group",
    r"\bgives? the other away\b": "leaks between folds",
    r"\bpictures?\b": "images",
    r"\bso far as (it|they) (is|are) there\b": "if available",
    r"\bthe winner\b": "the best pipeline",
    r"\bweigh(s|ed|ing)? (the )?classes\b": "class_weight",
    r"\bevery class counts alike\b": "class_weight='balanced'",
    r"\bimages kept together\b": "grouped cross-validation",
    r"\bis used up\b": "has plateaued",
    r"\blook(s|ed)? closer\b": "evaluate_best",
}
# names of variables and functions
NAMES = {"found", "held", "given", "known", "slope", "climb", "together", "judge", "course"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_phrases(path):
    text = path.read_text("utf-8")
    hits = {
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}; write {better!r}"
        for phrase, better in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    }
    assert not hits


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_names(path):
    hits = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        else:
            continue
        if name in NAMES:
            hits.add(f"line {node.lineno}: {name!r}; say what the value is")
    assert not hits
