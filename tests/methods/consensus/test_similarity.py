"""The pure part of the consensus: similarities, clusters, representatives, ties."""

import numpy as np
import pytest

from fedapp.methods.consensus.clustering import KINDS, Clustering
from fedapp.methods.consensus.similarity import (
    largest_cluster,
    likeness,
    medoid,
    most_likely,
    nearest_to_centroid,
    similarities,
)


def on_circle(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def same(labels):
    """Clusters as sets of voters, whatever their numbers."""
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


def test_similarities_are_cosines():
    found = similarities(on_circle(0, 60, 90))
    assert found == pytest.approx(np.array([[1, 0.5, 0], [0.5, 1, 0.866025], [0, 0.866025, 1]]))
    assert (found == found.T).all()


def test_what_differs_beyond_six_decimals_is_equal():
    nearly = similarities(on_circle(0, 1e-5, 2e-5))  # cosines of 1 - 1e-14
    assert (nearly == 1).all()


def test_the_largest_cluster_has_the_most_votes_not_the_most_voters():
    similarity = similarities(on_circle(0, 0, 90))
    labels = np.array([0, 0, 1])
    assert largest_cluster(labels, similarity, np.ones(3)).tolist() == [0, 1]
    assert largest_cluster(labels, similarity, np.array([1.0, 1.0, 5.0])).tolist() == [2]


def test_of_equal_clusters_the_one_more_alike_wins_then_the_first_voters():
    similarity = similarities(on_circle(0, 20, 90, 95))
    labels = np.array([0, 0, 1, 1])
    assert largest_cluster(labels, similarity, np.ones(4)).tolist() == [2, 3]  # 5 degrees against 20
    level = similarities(on_circle(0, 10, 90, 100))
    assert largest_cluster(labels, level, np.ones(4)).tolist() == [0, 1]
    assert (
        largest_cluster(np.array([7, 3, 7, 3]), similarities(on_circle(0, 90, 10, 100)), np.ones(4))[0] == 0
    )


def test_likeness_is_the_mean_over_pairs():
    similarity = similarities(on_circle(0, 60, 90))
    assert likeness(similarity, np.array([0, 1, 2])) == pytest.approx((0.5 + 0 + 0.866025) / 3, abs=1e-6)
    assert likeness(similarity, np.array([1])) == 1.0


def test_the_medoid_is_the_one_in_the_middle_and_the_first_of_equals():
    similarity = similarities(on_circle(0, 30, 10))
    assert medoid(similarity, np.array([0, 1, 2]), np.ones(3)) == 2
    assert medoid(similarity, np.array([0, 1]), np.ones(3)) == 0
    # Three votes on one side pull the medoid there.
    assert medoid(similarity, np.array([0, 1, 2]), np.array([1.0, 5.0, 1.0])) == 1


def test_the_centroid_of_different_answers_is_not_pulled_by_copies():
    vectors, members, votes = on_circle(0, 0, 0, 0, 0, 0, 20, 40), np.arange(8), np.ones(8)
    once = np.array([1 / 6] * 6 + [1, 1])
    assert nearest_to_centroid(vectors, members, once) == 6  # the mean of 0, 20 and 40 degrees
    assert nearest_to_centroid(vectors, members, votes) == medoid(similarities(vectors), members, votes) == 0


def test_the_most_likely_answer_is_one_that_is_rated():
    rated = np.array([np.nan, -2.0, -0.5, -0.1])
    assert most_likely(rated, np.array([0, 1, 2])) == 2
    assert most_likely(rated, np.array([0])) is None


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 labels"):
        largest_cluster(np.zeros(2), np.eye(3), np.ones(2))
    with pytest.raises(ValueError, match="one at least"):
        largest_cluster(np.zeros(0), np.zeros((0, 0)), np.zeros(0))


@pytest.mark.parametrize("kind", ["agglomerative", "components", "dbscan"])
def test_two_far_groups_are_two_clusters(kind):
    labels = Clustering(kind, threshold=0.9).labels(similarities(on_circle(0, 90, 5, 95, 3)))
    assert same(labels) == {frozenset({0, 2, 4}), frozenset({1, 3})}


def test_a_chain_is_one_component_but_not_one_agglomeration():
    chain = similarities(on_circle(0, 40, 80, 120))  # neighbours 0.766, ends -0.5
    assert len(same(Clustering("components", 0.7).labels(chain))) == 1
    assert len(same(Clustering("agglomerative", 0.7).labels(chain))) == 2


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.8, [{0, 1, 2}]),  # complete linkage (least cosine 0.766) would part them
        (0.86, [{0, 1}, {2}]),  # single linkage (largest cosine 0.906) would join them
    ],
)
def test_agglomeration_goes_by_the_mean_cosine_of_two_clusters(threshold, expected):
    # 0 and 15 join first (0.966); their cosines with 40 are 0.766 and 0.906, 0.836 on average.
    three = similarities(on_circle(0, 15, 40))
    labels = Clustering(threshold=threshold).labels(three)
    assert same(labels) == {frozenset(members) for members in expected}


def test_a_voter_in_no_dense_region_stands_alone():
    labels = Clustering("dbscan", 0.9, min_samples=2).labels(similarities(on_circle(0, 2, 90, 180)))
    assert same(labels) == {frozenset({0, 1}), frozenset({2}), frozenset({3})}


@pytest.mark.parametrize("kind", ["agglomerative", "components", "dbscan"])
def test_a_cosine_that_equals_the_threshold_counts_as_alike(kind):
    pair = np.array([[1.0, 0.7], [0.7, 1.0]])
    assert len(same(Clustering(kind, 0.7).labels(pair))) == 1
    assert len(same(Clustering(kind, 0.700001).labels(pair))) == 2
    assert len(same(Clustering(kind, 1.0).labels(np.ones((2, 2))))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_voter_is_one_cluster(kind):
    assert Clustering(kind).labels(np.ones((1, 1))).tolist() == [0]


def test_without_clustering_all_are_in_one():
    assert Clustering("none", 1.0).labels(np.eye(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "kmeans"}, "kind='kmeans' must be one of"),
        ({"threshold": 1.5}, "threshold=1.5 must be"),
        ({"min_samples": 0}, "min_samples=0 must be"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        Clustering(**settings)
