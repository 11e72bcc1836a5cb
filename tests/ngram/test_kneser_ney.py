"""Counting and probabilities: against the definition, by hand, and that they sum to one."""

import numpy as np
import pytest
from plain_kneser_ney import PlainKneserNey

from xlabml.errors import DataError, SettingsError
from xlabml.ngram import Documents, KneserNey, count_ngrams, open_ngrams
from xlabml.ngram.discounts import find_discounts
from xlabml.ngram.sorting import Runs

N_VOCAB = 12
SOS, EOS = 1, 2


def make(texts, folder, order=5, **options):
    count_ngrams(Documents(map(np.array, texts), N_VOCAB, SOS, EOS, 'ours'), folder, order, **options)
    return KneserNey(open_ngrams(folder))


def some_texts(n=40, seed=0):
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, N_VOCAB - 3)
    return [
        (draw.choice(N_VOCAB - 4, size=length, p=weights / weights.sum()) + 4).tolist()
        for length in draw.integers(1, 30, n)
    ]


def laid_out(texts):
    """Inputs, targets and starts as a batch has them."""
    inputs = np.concatenate([[SOS, *text] for text in texts])
    targets = np.concatenate([[*text, EOS] for text in texts])
    return inputs, targets, np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])


@pytest.fixture(scope='module')
def counted(tmp_path_factory):
    """N-grams counted in one chunk, and in chunks of seven tokens."""
    folder = tmp_path_factory.mktemp('ngrams')
    texts = some_texts()
    return texts, make(texts, folder / 'whole'), make(texts, folder / 'parts', chunk_tokens=7)


def test_probabilities_equal_the_definition(counted):
    texts, fast, _ = counted
    plain = PlainKneserNey(texts, N_VOCAB, SOS, EOS, 5)
    others = some_texts(12, seed=1)
    inputs, targets, starts = laid_out(others)
    expected = []
    for text in others:
        ids = (SOS, *text, EOS)
        expected += [plain.p(ids[i], ids[max(0, i - 4) : i]) for i in range(1, len(ids))]
    np.testing.assert_allclose(fast.score(inputs, targets, starts).probability, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('order', [2, 3, 7])
def test_other_orders_equal_the_definition(tmp_path, order):
    texts = some_texts(10)
    fast = make(texts, tmp_path / 'n', order)
    plain = PlainKneserNey(texts, N_VOCAB, SOS, EOS, order)
    for context in [(SOS,), (SOS, *texts[3][:2]), tuple(texts[0][:8]), (9, 9, 9, 9)]:
        context = context[-(order - 1) :]
        expected = [plain.p(w, context) for w in range(N_VOCAB)]
        np.testing.assert_allclose(fast.next(context).probabilities, expected, rtol=1e-12, atol=0)


def test_they_sum_to_one_behind_any_context(counted):
    _, fast, _ = counted
    draw = np.random.default_rng(2)
    for _ in range(100):
        context = draw.integers(0, N_VOCAB, draw.integers(0, 7)).tolist()
        found = fast.next(context)
        assert found.probabilities.min() > 0
        np.testing.assert_allclose(found.probabilities.sum(), 1, rtol=1e-12)


def test_one_position_equals_a_batch(counted):
    texts, fast, _ = counted
    inputs, targets, starts = laid_out(texts[:5])
    scores = fast.score(inputs, targets, starts)
    begin = 0
    for i, target in enumerate(targets):
        begin = i if i in starts else begin
        found = fast.next(inputs[begin : i + 1].tolist())
        np.testing.assert_allclose(scores.probability[i], found.probabilities[target], rtol=1e-12)
        assert (scores.matched[i], scores.total[i]) == (found.matched, found.total)
        np.testing.assert_allclose(scores.backoff[i], found.backoff)


def test_a_part_of_a_text_has_contexts_of_its_own(counted):
    texts, fast, _ = counted
    text = next(text for text in texts if len(text) > 8)
    inputs = np.array([SOS, *text[:7]])  # cut behind the third: the second part begins without a start
    scores = fast.score(inputs, np.array(text[:8]), np.array([0, 3]))
    assert scores.matched.tolist() == [1, 2, 3, 1, 2, 3, 4, 4]
    np.testing.assert_allclose(scores.probability[4], fast.next(text[2:4]).probabilities[text[4]])


def test_chunks_count_the_same(counted):
    _, fast, parts = counted
    for one, other in zip(fast.counted.levels, parts.counted.levels):
        for name in one._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(fast.counted.unigrams, parts.counted.unigrams)
    assert not list(parts.counted.folder.glob('*.tmp'))


def test_a_case_by_hand(tmp_path):
    """Texts "a b a b" and "a c", order 2. Bigrams: sos a 2, a b 2, b a 1, b eos 1, a c 1, c eos 1; no count of 3 or 4,
    so that the discounts are .5, 1, 1.5. Predecessors: a has two (sos, b), b one, c one, eos two (b, c); together 6.
    """
    a, b, c = 4, 5, 6
    fast = make([[a, b, a, b], [a, c]], tmp_path / 'n', order=2)
    rest = (1 + 0.5 + 0.5 + 1) / 6  # what discounts take from a, b, c, eos
    unigram_b = (1 - 0.5) / 6 + rest / N_VOCAB
    b_behind_a = (2 - 1) / 3 + (1 + 0.5) / 3 * unigram_b
    found = fast.next([a]).probabilities
    np.testing.assert_allclose(found[b], b_behind_a)
    np.testing.assert_allclose(found[SOS], 0.5 * rest / N_VOCAB)
    assert fast.next([7]).matched == 0
    np.testing.assert_allclose(fast.next([7]).probabilities[b], unigram_b)


def test_discounts_of_counts_of_counts():
    share = 100 / (100 + 2 * 40)
    expected = [0, 1 - 2 * share * 40 / 100, 2 - 3 * share * 20 / 40, 3 - 4 * share * 12 / 20]
    np.testing.assert_allclose(find_discounts([100, 40, 20, 12]), expected)


@pytest.mark.parametrize('counts', [[0, 4, 4, 4], [9, 4, 2, 0], [1, 2, 90, 1], [0, 0, 0, 0]])
def test_degenerate_counts_have_constant_discounts(counts):
    assert find_discounts(counts).tolist() == [0, 0.5, 1, 1.5]


def test_runs_merge_to_what_one_sort_finds(tmp_path):
    draw = np.random.default_rng(0)
    chunks = [draw.integers(0, 200, draw.integers(1, 90)) for _ in range(11)]
    runs = Runs(tmp_path, 60)
    for chunk in chunks:
        runs.add(chunk)
    parts = list(runs.merged())
    keys, counts = np.unique(np.concatenate(chunks), return_counts=True)
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), keys)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), counts)
    assert len(parts) > 3
    assert max(len(part) for part, _ in parts) <= 60


def test_a_text_of_one_token_is_counted(tmp_path):
    fast = make([[5]], tmp_path / 'n')
    assert fast.next([SOS]).probabilities.argmax() == 5
    assert fast.next([SOS, 5]).probabilities.argmax() == EOS
    np.testing.assert_allclose(fast.next([SOS, 5, EOS]).probabilities.sum(), 1)


def test_refusals_name_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match='there is no text to count'):
        make([], tmp_path / 'none')
    assert not (tmp_path / 'none').exists()
    with pytest.raises(SettingsError, match='order is 9; give 2 to 8'):
        make([[5]], tmp_path / 'nine', order=9)
    with pytest.raises(FileNotFoundError, match='there is no such folder'):
        open_ngrams(tmp_path / 'nothing')
    fast = make([[5, 6]], tmp_path / 'n')
    with pytest.raises(SettingsError, match=r'counted with another tokenizer than that of model\.ckpt'):
        fast.counted.check_tokenizer('theirs', 'model.ckpt')
    path = tmp_path / 'n' / 'keys_3.bin'
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r'keys_3\.bin has \d+ bytes, but manifest\.json says'):
        open_ngrams(tmp_path / 'n')
    path.unlink()
    with pytest.raises(DataError, match=r'keys_3\.bin is gone'):
        open_ngrams(tmp_path / 'n')
