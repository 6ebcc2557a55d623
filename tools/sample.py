"""The same as ``backbones sample``, from a checkout."""

from backbones.cli.sample import main

if __name__ == "__main__":
    main()
