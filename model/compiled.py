"""How the twins are compiled: ``njit`` of numba, kept in ``build/numba`` (see ``model``).

numba counts the references to every array that a function is given, one by one, at each call; a tuple such as ``TileState`` has
twenty. What neither allocates an array nor returns one only borrows them, and is compiled without: ``borrowing``. A third of the
time of a training went there.
"""
from typing import Any

from numba import njit

__all__ = ["borrowing", "compiled"]

_njit: Any = njit                                         # its annotations do not know the option
compiled = _njit(cache=True, _nrt=True)
"""Decorator of a function that allocates or returns arrays."""
borrowing = _njit(cache=True, _nrt=False)
"""Decorator of a function that does neither: numba refuses to compile one that allocates. Its own library uses ``_nrt``."""
