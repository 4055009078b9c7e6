"""Sphinx builds the site from these pages: ``make docs``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import django

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django_srq.version import __version__  # noqa: E402

project = "django_srq"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "command_help"]
if tags.has("spelling"):  # type: ignore[name-defined]  # noqa: F821
    extensions.append("sphinxcontrib.spelling")  # it needs the C library enchant
exclude_patterns = ["_build", "_ext"]
nitpicky = True  # a reference that leads nowhere is an error
nitpick_ignore_regex = [("py:.*", r".*")]  # types in signatures; the pages link by path and anchor

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
python_maximum_signature_line_length = 60  # a longer signature has a line for each parameter

spelling_ignore_importable_modules = False  # the same words are right in every environment
spelling_ignore_contributor_names = False
spelling_lang = "en_GB"
spelling_word_list_filename = "words.txt"
spelling_exclude_patterns = ["explanation/changelog.md"]

html_theme = "furo"
html_title = f"django_srq {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True


def plain_defaults(app, what, name, obj, options, signature, returned):
    """A default whose repr is no Python, such as that of unittest.mock.ANY, would break the lines of a signature."""
    return (re.sub(r"<(\w+)>", r"\1", signature), returned) if signature else None


def setup(app):
    app.connect("autodoc-process-signature", plain_defaults)
