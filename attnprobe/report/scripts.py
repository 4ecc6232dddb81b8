"""Browser scripts of other projects, read from the packages that carry them."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from attnprobe.errors import ReportError, nearest


@dataclass(frozen=True, slots=True)
class Script:
    """A script that goes into a page, so that the page asks nobody for it."""

    name: str
    """What it is called."""
    licence: str
    """The licence it comes under, by its SPDX name."""
    author: str
    """Who holds the copyright."""
    package: str
    """The Python package that carries it."""
    path: str
    """Where it lies, from the folder that packages are installed in."""

    def text(self) -> str:
        """Read the script; the package is not imported.

        Raises:
            ReportError: If the package, or the script in it, is not there.
        """
        try:
            file = Path(str(distribution(self.package).locate_file(self.path)))
            return file.read_text(encoding="utf-8")
        except (PackageNotFoundError, OSError) as error:
            absent = isinstance(error, PackageNotFoundError)
            raise ReportError(
                f"the page needs {self.name}, which the package {self.package} carries",
                where=None if absent else str(error.filename),
                got="no such package" if absent else "no such file in it",
                fix=f"pip install --force-reinstall {self.package}",
            ) from error


SCRIPTS = {
    script.name: script
    for script in (
        Script("jQuery", "MIT", "OpenJS Foundation and other contributors", "XStatic-jQuery",
               "xstatic/pkg/jquery/data/jquery.min.js"),
        Script("D3", "BSD-3-Clause", "Mike Bostock", "mpld3", "mpld3/js/d3.v5.min.js"),
        Script("bertviz head view", "Apache-2.0", "Jesse Vig", "bertviz", "bertviz/head_view.js"),
        Script("bertviz model view", "Apache-2.0", "Jesse Vig", "bertviz",
               "bertviz/model_view.js"),
    )
}  # fmt: skip
"""All there is, by name. bertviz is written for D3 5; in later ones events look different."""


def find_script(name: str) -> Script:
    """Look a script up.

    Raises:
        ReportError: If there is none of that name.
    """
    if name not in SCRIPTS:
        raise ReportError("no script of that name", got=f"'{name}'", fix=nearest(name, SCRIPTS))
    return SCRIPTS[name]
