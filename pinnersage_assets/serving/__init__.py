"""Answers at any moment: the clusters of the last batch, what users did since, and the pins nearest to both."""
