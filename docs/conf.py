"""Sphinx configuration of the busmt documentation. Build with: sphinx-build -W -b html docs docs/_build/html"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.pop("BUSMT_NOTEBOOK_DATA", None)  # pages show synthetic phantoms only, never patients

from busmt import __version__  # noqa: E402

project = "busmt"
author = "the busmt developers"
version = release = __version__
copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "plain_text", "generated_pages"]
exclude_patterns = ["_build", "_ext", "images/*.py"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_update_mathjax = False

# Notebooks are executed on phantoms where their cached result is older than they are.
nb_execution_mode = "cache"
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "remove"  # start-up messages of TensorFlow

autodoc_inherit_docstrings = False  # those of Keras are not written for here
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"
smartquotes = False  # they would turn --options into dashes

html_theme = "furo"
html_title = f"busmt {release}"
html_static_path = ["_static"]
html_css_files = ["busmt.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "footer_icons": [],
    "announcement": "Research software, not a medical device.",
}
