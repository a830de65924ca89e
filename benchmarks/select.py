"""Run _select.py, and import Python's own module ``select``, which this file would hide from other scripts."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    from _select import main

    main()
else:  # imported as Python's module ``select``, for example by subprocess
    spec = PathFinder.find_spec("select", [path for path in sys.path if os.path.abspath(path) != HERE])
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
