"""The same as ``backbones train``, from a checkout."""

from backbones.cli.train import main

if __name__ == "__main__":
    main()
