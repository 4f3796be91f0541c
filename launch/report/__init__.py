"""`prolong report`: one HTML page that shows a run, and needs no network.

    metrics.jsonl, summary.json --> curves.py, facts.py --+
    journal/ --> rollouts.py -----------------------------+--> page.py (with assets/) --> RUN/report.html
    ../diagnosis/ ----------------------------------------+

`launch/cli.py` enters by command.py.
"""
