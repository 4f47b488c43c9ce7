"""Answers at any moment: the clusters of the last batch, what users did since, and the pins nearest to both.

What belongs here: how records and events are kept, read and landed, and what is answered. What does not: how actions
update clusters (`model.online`), and anything that Dagster knows of (`lineage`, `jobs`).
"""
