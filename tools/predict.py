"""The same as ``backbones predict``, from a checkout."""

import sys

from backbones.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
