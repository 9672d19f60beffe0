"""The command line: one file per command, nothing heavy imported before a command runs."""

import os
import sys


def _without_working_folder() -> None:
    """Take off the path what an empty entry of PYTHONPATH put there: the working folder.

    ``PYTHONPATH=$PYTHONPATH:/x`` makes one, and a stranger's ``json.py`` may lie there. It stays if
    an entry names it.
    """
    path = os.environ.get("PYTHONPATH", "")
    places = path.split(os.pathsep) if path else []
    if "" not in places:
        return
    try:
        here = os.getcwd()
    except OSError:  # it is gone, and nothing lies in it
        return
    if here not in [os.path.abspath(place) for place in places if place]:
        sys.path[:] = [place for place in sys.path if place not in ("", here)]


_without_working_folder()  # before any other import
