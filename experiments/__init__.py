"""The paper's tables and figures, and further measurements, made from the recorded results of trained networks.

``python -m experiments table2`` prints a table. ``results/`` holds what was measured; see ``results.py``. Each table or
figure has one file with a function ``run``, and one line in the table of ``__main__.py``.
"""
