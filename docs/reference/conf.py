"""Settings of Sphinx for the reference; see CONTRIBUTING.md for the command."""

import optuna_biotune

project = "optuna-biotune"
author = "The optuna-biotune authors"
copyright = author
version = release = optuna_biotune.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"optuna-biotune {release}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["reference.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
add_module_names = False

# Names as modules write them where they are imported for types only: they cannot be looked up.
_SHORT_NAMES = (
    *("ArtifactStore", "BaseDistribution", "ImageDataset", "Path", "Study", "Tensor"),
    r"nn\.Module",
)
_FOREIGN_PACKAGES = (
    *("PIL", "collections", "numpy", "optuna", "os", "pathlib", "plotly", "sqlalchemy", "torch"),
)
# What belongs to other packages has no page here, and their own pages are not fetched.
nitpick_ignore_regex = [
    *((r"py:.*", name) for name in _SHORT_NAMES),
    *((r"py:.*", rf"{package}\..*") for package in _FOREIGN_PACKAGES),
]
# Protocols: Optuna's trials are of the first two kinds, and RefitResult is of the third.
nitpick_ignore = [
    ("py:class", "optuna_biotune.genotype.SupportsParams"),
    ("py:class", "optuna_biotune.genotype.SupportsSuggestFloat"),
    ("py:class", "optuna_biotune.dashboard._note.Result"),
]
