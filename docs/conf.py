"""Configuration of the documentation site: ``make docs``, or ``sphinx-build docs docs/_build/html``."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TLFEATURES_CACHE"] = tempfile.mkdtemp(
    prefix="tlfeatures-docs-"
)  # each build computes its figures
atexit.register(shutil.rmtree, os.environ["TLFEATURES_CACHE"], ignore_errors=True)

from reference_pages import list_results  # noqa: E402

import tlfeatures  # noqa: E402

project = "tlfeatures"
author = "The tlfeatures authors"
copyright = "The tlfeatures authors. License: Apache-2.0"
version = release = tlfeatures.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "command_pages",
    "reference_pages",
    "repository_pages",
    "link_names",
]
exclude_patterns = ["_build", "_ext", "_templates", "examples", "gallery/*.ipynb", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = False
highlight_language = "python"
default_role = "py:obj"  # `name` in docstrings links to the reference if it is a public name
smartquotes = False

# Markdown and notebooks, which keep the outputs that `make notebooks` stored
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True

# API reference
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # numpydoc's sections have the types
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False  # the template of classes documents them
numpydoc_xref_param_type = False
# Every public name has a summary that is one sentence, and describes all parameters and results. Not required: an
# extended summary (ES01), "See Also" (SA01), and an example for each method (EX01): classes and functions have theirs.
numpydoc_validation_checks = {
    "GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10",
    "SS01", "SS02", "SS03", "SS04", "SS05", "SS06",
    "PR01", "PR02", "PR05", "PR06", "PR08", "PR09", "PR10",
    "RT01", "RT04", "RT05", "YD01",
}  # fmt: skip
numpydoc_validation_exclude = {
    r"\.[A-Z_]+$",  # constants
    r"\.(Engine|AudioReadError)$",  # a protocol; refers to the parameters of ImageReadError
    r"\.EmbeddingStore\.batches$",  # describes what it yields
    r"\.FineTuneRegressor$",  # refers to the parameters of FineTuneClassifier
    *(rf"^{re.escape(name)}$" for name in list_results((HERE / "api.md").read_text("utf-8"))),
}

# Short examples, which are run by each build
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("tlfeatures",),
    "reference_url": {"tlfeatures": None},  # names in the code link to the reference
    "backreferences_dir": "gallery/used",
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "min_reported_time": sys.maxsize,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "tlfeatures"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "start": []}
html_theme_options = {
    "logo": {"text": "tlfeatures"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    # pages with code side by side need the width
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        **{page: [] for page in ("from_keras", "from_thingsvision", "from_embetter")},
    },
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Addresses are checked by `make docs ARGS=--links`, where there is a network; links within the site by each build.
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"https://example\.org.*"]
