"""The paper's experiments, one command each: `python -m programs.experiments math|web|ablations|gym --help`.

`paper` holds the published figures, `plan` what is asked for, `tasks` programs and data, `models` the LMs, `arms` how
each program is taught, `costs` what it will take, `run` how it goes and goes on, `together` how several of them share a
table, `records` what it found; `tables`, `article`, `text` and `pictures` show that.
"""
