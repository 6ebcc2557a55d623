"""The same as ``backbones test``, from a checkout."""

from backbones.cli.test import main

if __name__ == "__main__":
    main()
