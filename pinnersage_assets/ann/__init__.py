"""Nearest neighbours: the HNSW index (USearch), and exact search."""
