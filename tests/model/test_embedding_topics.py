"""Topics of pins without a category: planted ones are found, and the same pins have the same topics."""

import numpy as np
import pytest

from pinnersage_assets.model.embedding_topics import embedding_topics
from pinnersage_assets.model.selected_vectors import SelectedVectors


def planted(pins, topics, dimensions=32):
    """Unit vectors about one of some orthogonal centres, and which."""
    rng = np.random.default_rng(0)
    of = rng.integers(topics, size=pins)
    vectors = np.eye(dimensions)[of] + 0.05 * rng.standard_normal((pins, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), of


def test_no_topic_has_pins_of_two_planted_ones_where_there_are_fewer():
    vectors, of = planted(6_000, 8)
    topics = embedding_topics(np.arange(6_000), vectors)
    assert (topics.dtype, topics.min() >= 0, topics.max() < 64) == (np.int64, True, True)
    for topic in np.unique(topics):
        assert len(np.unique(of[topics == topic])) == 1


def test_every_pin_is_of_the_nearest_mean_of_few_pins():
    """Of so few that all are in the sample, k-means has come to its end."""
    vectors, _ = planted(200, 5)
    topics = embedding_topics(10 * np.arange(200), vectors)
    means = {topic: vectors[topics == topic].astype(np.float64).mean(axis=0) for topic in np.unique(topics)}
    for vector, topic in zip(vectors, topics, strict=True):
        assert min(means, key=lambda other: np.linalg.norm(vector - means[other])) == topic


def test_vectors_need_not_be_in_memory():
    vectors, _ = planted(5_000, 8)
    order = np.random.default_rng(1).permutation(5_000)
    shuffled = np.empty_like(vectors)
    shuffled[order] = vectors
    ids = np.arange(5_000)
    assert np.array_equal(embedding_topics(ids, SelectedVectors(shuffled, order)), embedding_topics(ids, vectors))


@pytest.mark.parametrize("pins", [0, 1, 20])
def test_few_pins_are_one_topic(pins):
    vectors, _ = planted(pins, 5)
    assert embedding_topics(np.arange(pins), vectors).tolist() == [0] * pins
