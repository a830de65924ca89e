"""Run _select.py. Python's own ``select`` has this name, and a script's folder comes first on the path."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    from _select import main

    main()
else:  # imported by Python's subprocess or the like, in whose place it is found
    spec = PathFinder.find_spec("select", [path for path in sys.path if os.path.abspath(path) != HERE])
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
