"""Every study in pipelines/ is short, explains its options, and has a notebook with stored outputs."""

from __future__ import annotations

import ast
import io
import tokenize

import pytest

from tests.study_helpers import ROOT, import_study

STUDIES = sorted(
    path.stem for path in (ROOT / "pipelines").glob("*.py") if "Study(" in path.read_text("utf-8")
)
MAX_LINES = 150


def count_code_lines(source):
    """Count the lines that are not blank, comments or docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    layout = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_code_lines_are_counted():
    assert (
        count_code_lines('"""Title.\n\nText."""\n\n# comment\nx = [  # comment\n    1,\n\n    2,\n]\n') == 4
    )


@pytest.mark.parametrize("name", STUDIES)
def test_study_is_short(name):
    assert count_code_lines((ROOT / "pipelines" / f"{name}.py").read_text("utf-8")) <= MAX_LINES


@pytest.mark.parametrize("name", STUDIES)
def test_study_explains_its_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        import_study(name).main(["--help"])
    text = capsys.readouterr().out
    assert f"python pipelines/{name}.py" in text and "--data SOURCE" in text
    assert f"cache/{name}" in text and "mobilenet_0.75" in text


@pytest.mark.parametrize("name", STUDIES)
def test_study_has_a_notebook(name):
    assert (ROOT / "notebooks" / f"{name}.ipynb").is_file()


@pytest.mark.parametrize("name", STUDIES)
def test_missing_data_is_one_line(name, tmp_path, capsys):
    argv = ["--data", str(tmp_path / "absent"), "--model", "tiny", "--out", str(tmp_path / "out")]
    assert import_study(name).main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "absent" in line
    assert not (tmp_path / "out").exists()
