"What the choice of a start says about arguments that it cannot use, and about holes"

import math
import pytest
import torch
from odebc.boundary import choose, correlation, gain, holdout, mean_correlation, standard_error

D = torch.tensor([[3.0, 3, 0], [2, 2, 5], [1, 9, 9]])


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def with_hole(k, i):
    scores = D.clone()
    scores[k, i] = torch.nan
    return scores


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: choose(D, K=4), '1 … 3, the number of candidates'),
        (lambda: choose(D, K=0), 'K must lie'),
        (lambda: choose(D, R=0), 'R must lie'),
        (lambda: choose(D, R=4), '1 … 3, the number of pairs'),
        (lambda: choose(D[0]), 'two dimensions'),
        (lambda: choose(with_hole(2, 1)[2:, 1:2]), 'no candidate has a score'),
        (lambda: correlation(with_hole(2, 1)), 'not complete'),
        (lambda: correlation(torch.ones(3, 2)), 'no correlation'),
        (lambda: correlation(torch.full((7, 2), 0.1)), 'no correlation'),  # float32, too
        (lambda: correlation(D[:1]), 'at least 2 candidates'),
        (lambda: correlation(D[0]), 'at least 2 candidates'),
        (lambda: mean_correlation(D[:, :1]), 'at least 2 pairs'),
        (lambda: holdout(D, D, 4, 2, g()), '1 … 3, the number of candidates'),
        (lambda: holdout(D, D, 2, 4, g()), '1 … 3, the number of pairs'),
        (lambda: holdout(D, D[:2], 2, 2, g()), 'same candidates'),
        (lambda: holdout(D, with_hole(0, 0), 2, 2, g()), 'not complete'),
        (lambda: holdout(D, D, 2, 2, g(), 0), 'at least 1, not 0'),
        (lambda: gain(0, 4, 0.3), 'K ≥ 1'),
        (lambda: gain(4, 0, 0.3), 'R ≥ 1'),
        (lambda: gain(4, 4, 1.3), '0 … 1'),
        (lambda: gain(4, 4, -0.1), '0 … 1'),
    ],
)
def test_bad_arguments_get_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)


def test_first_candidates_and_pairs():
    chosen = [choose(D), choose(D, R=1), choose(D, K=2, R=2), choose(D, K=1)]
    assert chosen == [0, 2, 1, 0]


def test_a_hole_on_a_hard_pair_is_no_advantage():
    "The last pair is hard for all; the second candidate is worse wherever both are known"
    scores = torch.tensor([[1.0, 1, 9], [2, 2, torch.nan]])
    assert choose(scores) == 0
    both = torch.tensor([[1.0, torch.nan, 9], [torch.nan, 2, 8]])
    assert choose(both) == 1  # as many scores each: the pair that both have decides


def test_only_candidates_that_are_known_on_the_most_pairs():
    scores = torch.tensor([[5.0, 5, 5], [0, 0, torch.nan]])
    assert choose(scores) == 0


def test_holdout_is_the_naive_search():
    "The same numbers as shuffling the whole matrix and taking its first rows and columns"
    scores = torch.rand(12, 9, generator=g(1), dtype=torch.float64)
    unseen = torch.rand(12, 5, generator=g(2), dtype=torch.float64)
    found = holdout(scores, unseen, 7, 4, g(3), 20)
    generator, naive = g(3), []
    rows = [torch.randperm(12, generator=generator) for _ in range(20)]
    columns = [torch.randperm(9, generator=generator) for _ in range(20)]
    for r, c in zip(rows, columns):
        means = scores[r[:7]][:, c[:4]].mean(1)
        naive.append(unseen[r[means.argmin()]].mean())
    assert torch.equal(found, torch.stack(naive))


def test_standard_error():
    scores = torch.tensor([1.0, 2, 3, 4, torch.nan])
    assert standard_error(scores) == pytest.approx(scores[:4].std().item() / 2)
    assert math.isnan(standard_error(scores[3:]))


def test_gain_without_agreement_or_choice_is_nothing():
    assert gain(100, 10, 0.0) == 0
    assert abs(gain(1, 10, 0.5)) < 1e-9
