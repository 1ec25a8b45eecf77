"""The version of the package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mekrr-scale")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"
