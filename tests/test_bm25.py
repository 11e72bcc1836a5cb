"""BM25 is the formula, term by term; fusion is the sum of z-scores."""

import math

import numpy as np
import pytest

from xlabml.bm25 import BM25, Fusion, fuse, fuse_with_words, hubness, read_fusion, split_parts, split_words

DOCUMENTS = ['the cat sat', 'the dog sat on the dog', 'a bird', '']


def by_formula(query, text, k1=1.5, b=0.75):
    split = [split_words(document) for document in DOCUMENTS]
    average = sum(map(len, split)) / len(split)
    words = split_words(text)
    total = 0
    for word in split_words(query):
        n_with = sum(word in document for document in split)
        rarity = math.log(1 + (len(split) - n_with + 0.5) / (n_with + 0.5))
        count = words.count(word)
        total += rarity * count / (count + k1 * (1 - b + b * len(words) / average))
    return total


@pytest.mark.parametrize('options', [{}, {'k1': 0.9, 'b': 0.4}, {'k1': 2.0, 'b': 0.0}])
def test_scores_are_those_of_the_formula(options):
    queries = ['dog', 'The DOG sat, the dog', 'fish', '', 'bird cat']
    found = BM25(DOCUMENTS, **options).scores(queries)
    expected = [[by_formula(query, text, **options) for text in DOCUMENTS] for query in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ('documents', 'words'), [(DOCUMENTS, split_words), (DOCUMENTS, split_parts), ([''], split_words)]
)
def test_a_table_that_was_saved_scores_the_same(tmp_path, documents, words):
    path = tmp_path / 'table.npz'
    table = BM25(documents, words=words)
    with path.open('wb') as file:
        table.save(file)
    with path.open('rb') as file:
        loaded = BM25.load(file, words)
    queries = ['The dog sat', 'bird', '']
    assert loaded.n_documents == len(documents)
    assert loaded.scores(queries).tobytes() == table.scores(queries).tobytes()


def test_a_file_that_holds_no_table_is_refused(tmp_path):
    path = tmp_path / 'table.npz'
    with path.open('wb') as file:
        BM25(DOCUMENTS).save(file)
    whole = path.read_bytes()
    at = whole.index(b'the\n') + 1
    changed = whole[:at] + b'x' + whole[at + 1 :]
    np.savez(path, terms=np.zeros(1, np.uint8))
    other = path.read_bytes()
    np.savez(path, terms=np.array([{}], object))
    for data in (whole[:-30], changed, other, path.read_bytes(), b'no archive', b''):
        path.write_bytes(data)
        with path.open('rb') as file, pytest.raises(ValueError, match=r'BM25|allow_pickle'):
            BM25.load(file)
    np.save(path.with_suffix('.npy'), np.arange(3))
    with path.with_suffix('.npy').open('rb') as file, pytest.raises(ValueError, match='BM25'):
        BM25.load(file)


def test_no_documents_have_no_scores():
    assert BM25([]).scores(['dog']).shape == (1, 0)


def test_words_are_runs_of_letters_of_any_script():
    assert split_words("Don't stop: naïve 東京 x_1") == ['don', 't', 'stop', 'naïve', '東京', 'x_1']


def test_parts_are_runs_of_characters_inside_words():
    assert split_parts('An x-ray') == ['<an', 'an>', '<an>', '<x>', '<ra', 'ray', 'ay>', '<ray', 'ray>']
    found = BM25(['many archives', 'a dog'], words=split_parts).scores(['archive', 'dogs'])
    assert (found > 0).tolist() == [[True, False], [False, True]]  # no word stands in both


def test_fusion_sums_what_is_standardized():
    a = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    b = np.array([[0.0, 0.0, 30.0], [1.0, 2.0, 3.0]])
    z = math.sqrt(1.5)
    first = [-z - math.sqrt(0.5), -math.sqrt(0.5), z + math.sqrt(2)]
    np.testing.assert_allclose(fuse([a, b]), [first, [-z, 0, z]])
    np.testing.assert_allclose(fuse([a, b], [0.0, 2.0])[1], [-2 * z, 0, 2 * z])
    with pytest.raises(ValueError, match='1 weights are given for 2 systems'):
        fuse([a, b], [1.0])


@pytest.mark.parametrize('options', [{'k1': -1.0}, {'b': 1.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match='k1 is'):
        BM25(DOCUMENTS, **options)


def test_shares_of_vectors_and_words():
    vectors = np.array([[1.0, 2.0, 4.0]])
    words = np.array([[9.0, 2.0, 0.0]])
    assert fuse_with_words(vectors, words).tolist() == fuse([vectors, words]).tolist()
    np.testing.assert_allclose(fuse_with_words(vectors, words, 0.75), fuse([vectors, words], [1.5, 0.5]))


def test_a_checkpoint_has_a_ratio_and_known_terms():
    assert read_fusion({}) is None
    assert read_fusion({'vector_weight': 1}) == Fusion(1.0, 'words')
    assert read_fusion({'vector_weight': 0.7, 'bm25_terms': 'parts'}) == Fusion(0.7, 'parts')
    with pytest.raises(ValueError, match="terms of BM25 beside the vectors are 'letters'; known are words and parts"):
        read_fusion({'vector_weight': 0.7, 'bm25_terms': 'letters'})
    for value in (1.5, -0.1, math.nan, True, '0.5'):
        with pytest.raises(ValueError, match=r'the share of the vectors beside BM25 is .*, no ratio from 0 to 1'):
            read_fusion({'vector_weight': value})


def test_hubness_is_half_the_mean_of_the_highest_scores():
    scores = np.arange(24.0).reshape(12, 2)
    expected = [scores[2:, 0].mean() / 2, scores[2:, 1].mean() / 2]  # the 10 highest of 12
    for n_each in (1, 5, 12):
        blocks = (scores[i : i + n_each] for i in range(0, 12, n_each))
        np.testing.assert_allclose(hubness(blocks), expected)
    np.testing.assert_allclose(hubness([scores[:3]]), scores[:3].mean(0) / 2)  # fewer than 10: all
    with pytest.raises(ValueError, match='no query is known'):
        hubness([])


def test_a_text_near_to_all_queries_comes_behind_one_near_to_a_query():
    known = np.array([[3.0, 0.0], [3.0, 1.0], [3.0, 0.5]])
    assert (np.array([[3.0, 2.0]]) - hubness([known])).tolist() == [[1.5, 1.75]]


def test_a_checkpoint_has_known_queries():
    known = read_fusion({'vector_weight': 0.5, 'known_queries': ['a dog', 'a cat']})
    assert known == Fusion(0.5, 'words', ('a dog', 'a cat'))
    assert known.override(0.2, 'parts') == Fusion(0.2, 'parts', ('a dog', 'a cat'))
    assert str(known) == 'vectors and BM25 by 0.50 and 0.50, less the nearness to 2 known queries'
    assert str(Fusion()) == 'vectors and BM25 by 0.50 and 0.50'
    for value in ('a dog', [1], [''], {'a': 1}):
        with pytest.raises(ValueError, match=r'the known queries beside the vectors are .*; they are a list of texts'):
            read_fusion({'vector_weight': 0.7, 'known_queries': value})
