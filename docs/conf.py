"""Sphinx's settings: `make docs` builds these pages and the API reference into docs/_build."""

from __future__ import annotations

from plaud_provider import __version__

project = "airflow-provider-plaud"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_logo = "images/logo.svg"
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__new__"}
# Airflow's and requests' own classes are documented by them.
suppress_warnings = ["ref.class", "ref.python"]
