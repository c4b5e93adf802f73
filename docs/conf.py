"""Settings of the manual: `make docs` builds it as a site."""

import sys
from pathlib import Path

from metarl import __version__

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "MetaRL"
author = "The MetaRL contributors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "api_pages",
    "docstrings",
    "mathml",
    "pages",
]
exclude_patterns = ["_ext", "_static"]

# Names such as Moments are in several modules; references to them are not links.
suppress_warnings = ["ref.python"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks hold their outputs; a slow test executes them

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

highlight_language = "text"
copybutton_exclude = ".linenos, .gp, .go"
html_theme = "furo"
html_title = f"MetaRL {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
