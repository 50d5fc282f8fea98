"""What an optional part of the package needs: an error that says how to install it."""

from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Generator[None]:
    """Name the extra that installs a package where its import, inside of the block, does not find it.

    Args:
        name: The extra.

    Raises:
        ModuleNotFoundError: A package is not installed.

    Example:
        >>> with extra("torch"):
        ...     import no_such_package
        Traceback (most recent call last):
        ModuleNotFoundError: No module named 'no_such_package': pip install 'ordergrad[torch]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ordergrad"):
            raise
        message = f"No module named {error.name!r}: pip install 'ordergrad[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
