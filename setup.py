"""Build the reference model of `artifacts/` into the wheel; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

MODEL = "artifacts/reference-model"
packages, folders = find_packages(include=["attnprobe*"]), {}
if Path(MODEL).is_dir():
    packages.append("attnprobe.reference_model")
    folders["attnprobe.reference_model"] = MODEL
setup(packages=packages, package_dir=folders)
