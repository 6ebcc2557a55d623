"""The same as ``backbones encode-latents``, from a checkout."""

from backbones.cli.encode_latents import main

if __name__ == "__main__":
    main()
