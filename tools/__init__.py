"""Command-line tools; each file is a script and, for tests and other tools, a module."""
