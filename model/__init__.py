"""Parameters, instruction set, analogue model, twins of the digital blocks, compiler, trainer.

Compiled twins are cached in ``build/numba/<hash of every model source>``: numba's own cache does not notice a change in a module
that a cached function calls, and would silently run old code.
"""
import hashlib
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _cache_by_content():
    content = hashlib.sha256()
    for path in sorted(_HERE.rglob("*.py")):
        content.update(path.read_bytes())
    os.environ["NUMBA_CACHE_DIR"] = str(_HERE.parent / "build" / "numba" / content.hexdigest()[:16])
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()


_cache_by_content()
