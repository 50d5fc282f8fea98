"""Array libraries behind one contract, one module each; nothing else in the package names a library.

A library is imported only when one of its arrays comes in.
"""

from ordergrad.backends.cache import host_constants
from ordergrad.backends.choose import backend_of
from ordergrad.backends.contract import Array, Backend

__all__ = ["Array", "Backend", "backend_of", "host_constants"]
