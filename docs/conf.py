"""Configuration of the documentation site: `make docs` builds it with Sphinx into build/docs.

The source folder is the whole repository, so that README files stay where people look for them
and every relative link means the same here and in a repository's web page.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "USER"
author = "USER maintainers"
copyright = "USER maintainers, Apache-2.0"
root_doc = "docs/index"

include_patterns = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "src/*/README.md",
    "examples/README.md",
    "benchmarks/README.md",
]
exclude_patterns = [".*", "build*", "install*", "log*", "runs", "data", "config", "launch"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generated_reference",
    "repository_links",
    "docstring_references",
]

# Markdown
smartquotes = False  # `--option` stays what one types
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Docstrings
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "member-order": "bysource",
    "exclude-members": "Config",  # of a plugin: the reference of plugins has it
}
autodoc_typehints_format = "short"
# Every page shows the table of contents; with an entry for each method it takes most of the time.
toc_object_entries = False
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Commands are copied without their prompt.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "USER"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_show_sphinx = False
html_copy_source = False
