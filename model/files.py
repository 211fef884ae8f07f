"""Files that are written whole or not at all."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import InputError

__all__ = ["between", "make_folder", "write_whole"]


def make_folder(folder: Path) -> None:
    """Make a directory, unless it is there; InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): choose another place") from None


@contextmanager
def write_whole(target: Path) -> Iterator[Path]:
    """A temporary file beside ``target`` that takes its place if nothing is raised; InputError where none can be made."""
    make_folder(target.parent)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another place") from None
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.chmod(0o644)
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def between(text: str, markers: tuple[str, str], content: str) -> str:
    """``text`` of the README with ``content`` between two markers; raises InputError unless each stands there once."""
    start, end = markers
    if text.count(start) != 1 or text.count(end) != 1:
        raise InputError(f"README.md: the markers {start.strip()} and {end.strip()} must each stand there once")
    before, rest = text.split(start)
    return before + start + content + end + rest.split(end)[1]
