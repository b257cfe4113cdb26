"""The paper's tables and figures, and what belongs beside them: ``python -m experiments table2`` makes one.

An experiment is one file with a function ``run(plan)``, and one line in the table of ``__main__.py``. The networks of
Table 2 are the lines of ``cells.py``, and the ablations those of ``ablations.py``; the settings are the flagfiles in
``configs/``.
"""
