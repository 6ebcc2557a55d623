"""What ``backbones benchmark`` is made of.

``runtimes.py`` says what can run a model, ``measuring.py`` runs in processes of its own and measures, ``running.py``
starts those and gathers rows, ``results.py`` prints and writes them, ``plots.py`` draws them.
"""
