"""The local AWS: an emulator in the background, and the application's template on it.

`install` puts an emulator into a virtual environment, `emulators` knows how each is run, `running`
starts and stops one, `deployment` puts the template on it, `client` says how to reach it. Only
Python's standard library is used: what else is needed, `install` brings.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("the local AWS needs Python 3.11 or newer as python3")

# The folder of the project.
ROOT = Path(__file__).resolve().parents[2]


class Mistake(Exception):
    """What the person at the keyboard has to know; its text says what to do."""
