"""Documents as pieces: no token crosses a cut, the pieces spell the text, and wrong cuts are named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from xlabml import settings
from xlabml.data import (
    Corpus,
    CutAtColumn,
    CutAtPattern,
    Document,
    JoinColumns,
    Location,
    Source,
    prepare_store,
    store_folder,
)
from xlabml.data.sources.pieces import split_text


def write(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return Location(str(path))


def piece_texts(store, document, tokenizer):
    tokens = store.tokens[store.offsets[document] : store.offsets[document + 1]]
    return [tokenizer.decode(tokens[start:end].tolist()) for start, end in store.pieces(document).tolist()]


@st.composite
def cut_texts(draw):
    text = draw(st.text(st.sampled_from('abc dog 世é\u2581\n'), min_size=1, max_size=40))
    return text, sorted(draw(st.sets(st.integers(1, len(text) - 1)))) if len(text) > 1 else []


@of_hypothesis(deadline=None, max_examples=25)
@given(st.lists(cut_texts(), min_size=1, max_size=8))
def test_the_pieces_of_a_document_are_the_slices_of_its_text_tokenized_alone(tokenizer, tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp('pieces')
    source = CutAtColumn(write(folder / 'x.jsonl', [{'text': text, 'at': cuts} for text, cuts in drawn]), 'at')
    store = prepare_store(source, tokenizer, folder / 'store')
    corpus = Corpus([store], {'train': 1.0})
    assert store.manifest['n_pieces'] == sum(len(cuts) + 1 for _, cuts in drawn)
    for i, (text, cuts) in enumerate(drawn):
        slices = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None])]
        spans = corpus.pieces(i)
        assert piece_texts(store, i, tokenizer) == slices
        assert [corpus.tokens(i)[start:end].tolist() for start, end in spans.tolist()] == list(
            map(tokenizer.encode, slices)
        )
        assert spans[0, 0] == 0
        assert spans[-1, 1] == len(corpus.tokens(i))
        assert (spans[1:, 0] == spans[:-1, 1]).all()


def test_without_cuts_a_document_is_one_piece_and_its_store_is_as_it_was(store, corpus):
    assert corpus.pieces(7).tolist() == [[0, len(corpus.tokens(7))]]
    assert not [name for name in store.manifest['files'] if 'piece' in name]
    assert corpus.columns(7) == {'label': 1, 'title': 'title 7'}


def test_the_bytes_are_the_same_for_any_number_of_processes(tmp_path, tokenizer, texts, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 2000)
    rows = [{'text': text, 'at': list(range(3, len(text), 7))} for text in texts]
    source = CutAtColumn(write(tmp_path / 'x.jsonl', rows), 'at')
    assert len(source.parts()) > 3
    stores = [prepare_store(source, tokenizer, tmp_path / f'{n}', ['at'], n_processes=n) for n in (1, 2, 3)]
    assert len({store.fingerprint for store in stores}) == 1
    assert stores[2].columns(5) == {'at': rows[5]['at']}
    for i in (0, 1, 150, 299):
        assert ''.join(piece_texts(stores[2], i, tokenizer)) == texts[i]
        assert len(stores[2].pieces(i)) == len(rows[i]['at']) + 1


def test_a_pattern_cuts_behind_each_match(tmp_path, tokenizer):
    texts = ['\n\none\n\ntwo\n\n\nthree\n\n', 'one', '']
    source = CutAtPattern(write(tmp_path / 'x.jsonl', [{'text': text} for text in texts]), r'\n\n+')
    store = prepare_store(source, tokenizer, tmp_path / 'store')
    assert piece_texts(store, 0, tokenizer) == ['\n\n', 'one\n\n', 'two\n\n\n', 'three\n\n']
    assert piece_texts(store, 1, tokenizer) == ['one']
    assert store.manifest['invalid']['empty']['count'] == 1
    with pytest.raises(ValueError, match=r"pattern '\(' is no regular expression"):
        CutAtPattern(source, '(')


def test_pairs_and_triplets_are_joined_columns_with_roles(tmp_path, tokenizer):
    rows = [
        {'query': 'a dog', 'positive': 'the dog sat', 'negatives': ['a cat', 'a mat'], 'score': 0.5},
        {'query': 'cat', 'positive': '', 'negatives': [], 'score': 1.0},
        {'query': 'cat', 'positive': None, 'negatives': [], 'score': 1.0},
        {'query': 'far', 'positive': 'away', 'negatives': [], 'score': 0.0},
    ]
    path = tmp_path / 'x.jsonl'
    write(path, rows)
    source = JoinColumns(Location(str(path), column='query'), ['query', 'positive', 'negatives'])
    store = prepare_store(source, tokenizer, tmp_path / 'store', ['roles', 'score'])
    assert store.rows.tolist() == [0, 3]
    assert {reason: found['count'] for reason, found in store.manifest['invalid'].items()} == {
        'empty': 1,
        'not a string': 1,
    }
    assert piece_texts(store, 0, tokenizer) == ['a dog', 'the dog sat', 'a cat', 'a mat']
    assert store.columns(0) == {'roles': ['query', 'positive', 'negatives', 'negatives'], 'score': 0.5}
    assert piece_texts(store, 1, tokenizer) == ['far', 'away']
    assert store.n_bytes.tolist() == [len('a dogthe dog sata cata mat'), len('faraway')]
    with pytest.raises(ValueError, match='joined names no column'):
        JoinColumns(source, [])


@pytest.mark.parametrize(
    ('cuts', 'message'),
    [
        ([2, 9], r'row 1.*: a cut at character 9 is not inside its text of 5 characters; give offsets from 1 to 4'),
        ([0], r'row 1.*: a cut at character 0 is not inside'),
        ([-1], r'row 1.*: a cut at character -1 is not inside'),
        ([5], r'row 1.*: a cut at character 5 is not inside'),
        ([3, 2], r'row 1.*: a cut at character 2 comes after one at 3; cuts rise'),
        ([2, 2], r'row 1.*: a cut at character 2 comes after one at 2'),
        ([1.5], r'row 1.*: one of its cuts is 1\.5; a cut is a character offset'),
        ([True], r'row 1.*: one of its cuts is True'),
        (3, r'row 1.*: its cuts are 3; they are a list'),
        ('12', r"row 1.*: its cuts are '12'; they are a list"),
    ],
)
def test_wrong_cuts_are_refused_with_the_row(tmp_path, tokenizer, cuts, message):
    rows = [{'text': 'fine', 'at': [1]}, {'text': 'wrong', 'at': cuts}]
    source = CutAtColumn(write(tmp_path / 'x.jsonl', rows), 'at')
    with pytest.raises(ValueError, match=message):
        prepare_store(source, tokenizer, tmp_path / 'store')
    assert not (tmp_path / 'store').exists()


def test_a_source_that_cuts_without_saying_so_is_refused(tmp_path, tokenizer):
    class Silent(Source):
        def documents(self, columns=()):
            yield Document(0, 'a dog', {}, (2,))

        def fingerprint(self):
            return {}

    with pytest.raises(ValueError, match=r'row 0: it has cuts, but Silent\.in_pieces is False'):
        prepare_store(Silent(), tokenizer, tmp_path / 'store')


def test_other_cuts_are_another_store_and_settings_rebuild_the_source(tmp_path, tokenizer):
    plain = write(tmp_path / 'x.jsonl', [{'text': 'a dog', 'at': [1]}])
    sources = [plain, CutAtColumn(plain, 'at'), CutAtPattern(plain, ' '), CutAtPattern(plain, 'g')]
    assert len({store_folder(tmp_path, source, tokenizer) for source in sources}) == 4
    for source in sources[1:]:
        again = settings.build(json.loads(json.dumps(settings.describe(source))), Source)
        assert again.fingerprint() == source.fingerprint()
        assert again.files() == plain.files()


def test_the_slices_are_what_python_says():
    assert split_text(Document(0, 'abcdef', {}, np.array([2, 4]).tolist()), 'here') == ['ab', 'cd', 'ef']
    assert split_text(Document(0, 'a', {}), 'here') == ['a']


def test_a_source_in_pieces_is_in_the_split_that_its_documents_are_fixed_to(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"q": "why", "a": "because"}\n')
    path = str(tmp_path / 'a.jsonl')
    free, fixed = (JoinColumns(Location(path, column='q', only=only), ['q', 'a']) for only in (None, 'test'))
    assert (free.only, fixed.only) == (None, 'test')
    assert free.fingerprint() == fixed.fingerprint()
