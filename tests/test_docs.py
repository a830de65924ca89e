"""The documentation site builds without warnings, and has every public name, every command and the cards."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tlfeatures

ROOT = Path(tlfeatures.__file__).parents[1]
GENERATED = ("_build", "gallery", "notebooks", "reference", "repository", "commands.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site from a copy of the sources, without running the examples."""
    for package in (
        "sphinx",
        "myst_nb",
        "numpydoc",
        "pydata_sphinx_theme",
        "sphinx_design",
        "sphinx_gallery",
    ):
        pytest.importorskip(
            package, reason="the documentation is built with `pip install 'tlfeatures[docs]'`"
        )
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns(*GENERATED))
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for page in ("CHANGELOG.md", "CONTRIBUTING.md", "tlfeatures/networks/tiny.md"):
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / page, folder / page)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-D",
        "plot_gallery=0",
        "docs",
        "site",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return folder / "site"


def read(site, page):
    return (site / page).read_text("utf-8")


def test_start_page_has_a_card_for_each_task(site):
    cards = re.findall(r'class="sd-card-title[^>]*>\s*([^<]+?)\s*<', read(site, "index.html"))
    assert cards == [
        "Train on class folders",
        "Choose a layer",
        "Fine-tune",
        "Embed a million images",
        "Trust a prediction",
    ]


def test_reference_has_each_public_name(site):
    inventory = read(site, "genindex.html")
    missing = [
        name for name in tlfeatures.__all__ if f'"reference/names/tlfeatures.{name}.html#' not in inventory
    ]
    assert missing == ["__version__"]
    table = (ROOT / "docs" / "api.md").read_text("utf-8")
    for module_name, text in re.findall(r"^\| `(tlfeatures\.\w+)` \| (.*)", table, re.MULTILINE):
        module = importlib.import_module(module_name)
        page = read(site, f"reference/{module_name}.html")
        for name in re.findall(r"`(\w+)`", text):
            if name in module.__all__ and not hasattr(tlfeatures, name):
                assert name in page or f".{name}.html#" in inventory, f"{module_name}.{name}"


def test_command_line_has_each_command_and_option(site):
    import typer

    from tlfeatures.cli._app import app

    page = read(site, "commands.html")
    for name, command in typer.main.get_command(app).commands.items():
        assert f'id="tlfeatures-{name}"' in page
        for parameter in command.params:
            assert all(option in page for option in parameter.opts if option.startswith("--")), name


def test_search_index_finds_guides_examples_and_notebooks(site):
    index = read(site, "searchindex.js")
    for page in (
        "start",
        "choose",
        "cache",
        "offline",
        "gallery/plot_duplicates",
        "notebooks/signs",
        "reference/tlfeatures",
    ):
        assert f'"{page}"' in index


def test_links_within_the_site_lead_to_existing_pages(site):
    command = [sys.executable, str(ROOT / "docs" / "check_links.py"), str(site)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    (site / "broken.html").write_text(
        '<a href="missing.html">x</a><a href="index.html#missing">y</a>', "utf-8"
    )
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert (
        process.stderr
        == "broken link: broken.html: index.html#missing\nbroken link: broken.html: missing.html\n"
    )


def test_examples_have_figures_and_no_downloads():
    scripts = sorted((ROOT / "docs" / "examples").glob("plot_*.py"))
    assert len(scripts) >= 4
    for script in scripts:
        text = script.read_text("utf-8")
        assert "plt.show()" in text and '"tiny"' in text, script.name
