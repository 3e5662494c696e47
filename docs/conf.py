"""Sphinx settings; ``scripts/docs`` builds. Pages are plain reStructuredText, readable as they are."""

from importlib.metadata import version as installed_version

project = "ChatFlow"
author = "The ChatFlow maintainers"
project_copyright = f"2026, {author}"
version = release = installed_version("chatflow")

extensions = ["sphinx.ext.extlinks"]
exclude_patterns = ["_build", "*.inc"]
nitpicky = True  # a reference to what is not there is a warning, and scripts/docs takes warnings for errors

html_theme = "furo"
html_title = f"ChatFlow {version}"
html_show_sourcelink = False
