"""Hard negatives: each rule against a plain definition, by hand, and what is refused."""

import json
import re

import numpy as np
import pytest

from xlabml.errors import DataError, RequestError
from xlabml.pipelines.mining import Miner, Pair, Rules, as_record, write_negatives

ANGLES = {'q': 0.0, 'p': 20.0, 'a': 10.0, 'b': 30.0, 'c': 40.0, 'd': 60.0, 'e': 80.0, 'far': 170.0, 'farther': 175.0}
"""Vectors on a circle: the cosine with the query falls with the angle."""


def embed(texts):
    angle = np.deg2rad([ANGLES[text] for text in texts])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def mine(pairs, corpus='pabcde', rescore=None, answers=lambda query: (), **rules):
    miner = Miner(list(corpus), embed(corpus), embed, embed, Rules(**rules), rescore)
    return list(miner.mine([Pair(*pair) for pair in pairs], answers)), miner.counts


def cos(angle):
    return np.cos(np.deg2rad(angle))


@pytest.mark.parametrize(('rules', 'negatives', 'dropped'), [
    ({}, 'abcde', {}),
    ({'n_negatives': 2}, 'ab', {'number': 3}),
    ({'first_rank': 2, 'last_rank': 4}, 'bcd', {'first_rank': 1}),
    ({'absolute_margin': 0.0}, 'bcde', {'absolute_margin': 1}),  # a is nearer than the positive
    ({'absolute_margin': cos(20) - cos(35)}, 'cde', {'absolute_margin': 2}),
    ({'relative_margin': 1 - cos(50) / cos(20)}, 'de', {'relative_margin': 3}),
    ({'absolute_margin': cos(20) - cos(35), 'relative_margin': 1 - cos(50) / cos(20)}, 'de',
     {'absolute_margin': 2, 'relative_margin': 1}),
], ids=str)  # fmt: skip
def test_each_rule_by_hand(rules, negatives, dropped):
    (found,), counts = mine([('q', ['p'])], **rules)
    assert ''.join(found.negatives) == negatives
    np.testing.assert_allclose(found.positive_scores, [cos(20)], atol=1e-6)
    np.testing.assert_allclose(found.negative_scores, [cos(ANGLES[text]) for text in negatives], atol=1e-6)
    assert {name: n for name, n in counts.dropped.items() if n} == {'positive': 1, **dropped}
    assert counts.n_negatives == len(negatives)


def test_a_relative_margin_is_right_below_zero():
    """Of a positive at -0.98, candidates of at most -0.98 - 1 % of 0.98 pass: one above it never does."""
    corpus = ['far', 'e', 'farther']
    (found,), _ = mine([('q', ['far'])], corpus, relative_margin=0.01)
    assert found.negatives == ['farther']  # e, at 0.17, and all nearer to the query than the answer, stay out
    found, counts = mine([('q', ['far']), ('q', ['p'])], corpus, relative_margin=0.05)
    assert [one.positives for one in found] == [['p']]
    assert counts.n_without == 1


def test_neither_answers_nor_copies_nor_the_query_are_negatives():
    corpus = ['p', 'a', 'p', 'q', 'b', 'a', 'c', 'd']
    (found,), counts = mine([('q', ['p'])], corpus, answers=lambda query: ['c'])
    assert found.negatives == ['a', 'b', 'd']
    assert counts.n_copies == 2
    assert counts.dropped['positive'] == 2
    assert counts.dropped['query'] == 1
    (found,), _ = mine([('q', ['p'])], corpus, answers=lambda query: ['c'], first_rank=2, last_rank=3)
    assert found.negatives == ['b', 'd']  # ranks count neither of them


def test_a_negative_is_below_the_least_near_positive():
    (found,), _ = mine([('q', ['p', 'c'])], absolute_margin=0.0)
    assert found.negatives == ['d', 'e']


def test_drawn_negatives_follow_the_seed_and_the_query_alone():
    pairs = [('q', ['p'])] * 40
    found, _ = mine(pairs, n_negatives=2, is_drawn=True)
    again, _ = mine(pairs[:20], n_negatives=2, is_drawn=True)
    other, _ = mine(pairs, n_negatives=2, is_drawn=True, seed=1)
    assert found[:20] == again
    assert found != other
    drawn = [tuple(one.negatives) for one in found]
    assert {text for one in drawn for text in one} == {*'abcde'}
    assert all(first < second for first, second in drawn)  # the nearest first


def test_rescoring_gives_order_and_margins():
    scores = {'p': 3.0, 'a': 9.0, 'b': -1.0, 'c': 1.0, 'd': 2.5, 'e': 0.0}

    def rescore(pairs):
        assert {query for query, _ in pairs} == {'q'}
        return [scores[text] for _, text in pairs]

    (found,), counts = mine([('q', ['p'])], rescore=rescore, absolute_margin=1.0, n_negatives=2, last_rank=4)
    assert found.negatives == ['c', 'b']  # e is beyond the last rank of the vectors
    assert found.negative_scores == [1.0, -1.0]
    assert counts.dropped['absolute_margin'] == 2
    with pytest.raises(RequestError, match=r"rescoring returned \(1,\) for 6 pairs.*'q'"):
        mine([('q', ['p'])], rescore=lambda pairs: [1.0])
    with pytest.raises(RequestError, match='not finite'):
        mine([('q', ['p'])], rescore=lambda pairs: [np.nan] * len(pairs))


def test_random_corpora_agree_with_a_plain_definition():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 5)).astype(np.float32)
    texts = [str(i) for i in range(300)]
    known = dict(zip([*texts, *(f'q{i}' for i in range(300))], np.concatenate([vectors, vectors + 0.4])))
    pairs = [Pair(f'q{i}', [str(i), str((i * 7) % 300)]) for i in range(0, 300, 3)]

    def embed(texts):
        return np.stack([known[text] for text in texts])

    rules = Rules(4, 3, 40, absolute_margin=0.1, relative_margin=0.2)
    found = {one.query: one for one in Miner(texts, vectors, embed, embed, rules).mine(pairs)}
    for query, positives in pairs:
        score = {text: float(known[query].astype(float) @ known[text].astype(float)) for text in texts}
        least = min(score[text] for text in positives)
        ranked = sorted((text for text in texts if text not in positives), key=lambda text: -score[text])[2:40]
        plain = [text for text in ranked if score[text] <= min(least - 0.1, least - 0.2 * abs(least))][:4]
        assert (found[query].negatives if query in found else []) == plain


def test_the_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / 'n.jsonl'
    found, _ = mine([('q', ['p']), ('a', ['b'])], n_negatives=1)
    with pytest.raises(DataError, match=r'0 negatives of 0 queries; dropped: .*1 by the absolute margin'):
        mine([('q', ['p'])], 'pe', absolute_margin=1.9)

    def broken():
        yield found[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_negatives(path, broken())
    assert not list(tmp_path.iterdir())
    write_negatives(path, found)
    rows = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    assert [(row['anchor'], row['positive'], row['negatives']) for row in rows] == [
        ('q', ['p'], ['a']),
        ('a', ['b'], ['p']),
    ]
    assert [len(row['scores']) for row in rows] == [2, 2]
    assert as_record(found[0], 'flag').keys() == {'query', 'pos', 'neg', 'pos_scores', 'neg_scores'}
    with pytest.raises(FileExistsError, match=re.escape(f'{path} is there already')):
        write_negatives(path, found)


@pytest.mark.parametrize(('rules', 'message'), [
    ({'n_negatives': 0}, 'n_negatives is 0'),
    ({'first_rank': 5, 'last_rank': 4}, 'the ranks are 5 to 4'),
    ({'relative_margin': -0.1}, 'relative_margin is -0.1'),
    ({'absolute_margin': np.nan}, 'absolute_margin is nan'),
], ids=str)  # fmt: skip
def test_refusals(rules, message):
    with pytest.raises(RequestError, match=message):
        mine([('q', ['p'])], **rules)
    with pytest.raises(RequestError, match="the query 'q' has no positive"):
        mine([('q', [])])
