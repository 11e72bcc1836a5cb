"""Groups as tensors, worked out by hand."""

import json

import numpy as np
import pytest
import torch

from xlabml.batches import ANCHOR, NEGATIVE, POSITIVE
from xlabml.data import Location, prepare_store
from xlabml.data.groups import InOrder, TextGroups, make_index, verify_index
from xlabml.data.order import example_keys
from xlabml.errors import DataError, SettingsError

TRIPLETS = [
    {'query': 'a cat', 'pos': ['the cat sat'], 'neg': ['a dog', 'a mat']},
    {'query': 'the dog', 'pos': ['a dog'], 'neg': []},
]


def read(groups, *numbers, seed=0):
    numbers = np.array(numbers)
    return groups.batch(numbers, example_keys(seed, 0, numbers), float(len(numbers)))


def segments(batch):
    """The tokens of each segment that is text."""
    starts = batch.layout.starts.tolist()
    flat = batch.ids.flatten().tolist()
    return [flat[a:b] for a, b, is_text in zip(starts, starts[1:], batch.layout.is_text.tolist()) if is_text]


def of_texts(batch, values):
    return values[batch.example >= 0].tolist()


def find(groups, text):
    """The number of the group that has a text."""
    return next(i for i in range(len(groups)) if text in [shown for _, shown in groups.render(i)])


def test_the_texts_of_a_batch_are_segments_by_group_and_role(make_groups, tokenizer, triplets):
    groups = make_groups(triplets, TRIPLETS)
    batch = read(groups, find(groups, 'a cat'), find(groups, 'the dog'))
    sos, eos, pad = (tokenizer.special_ids[name] for name in ('sos', 'eos', 'pad'))
    texts = ['a cat', 'the cat sat', 'a dog', 'a mat', 'the dog', 'a dog']
    assert segments(batch) == [[sos, *tokenizer.encode(text), eos] for text in texts]
    assert of_texts(batch, batch.example) == [0, 0, 0, 0, 1, 1]
    assert of_texts(batch, batch.role) == [ANCHOR, POSITIVE, NEGATIVE, NEGATIVE, ANCHOR, POSITIVE]
    n_text = sum(map(len, segments(batch)))
    assert (batch.ids.flatten()[n_text:] == pad).all()
    assert batch.layout.starts[-1] == batch.ids.numel() == 128
    assert (batch.layout.starts.diff() <= batch.layout.max_length).all()
    hashes = of_texts(batch, batch.targets.text_hash)
    assert hashes[2] == hashes[5]
    assert len(set(hashes)) == 5
    assert batch.targets.score is None is batch.targets.label is batch.targets.vector


def test_an_empty_place_is_nothing(make_groups, triplets):
    groups = make_groups(triplets, TRIPLETS)
    with_hole = read(groups, 0, -1, 1)
    whole = read(groups, 0, 1)
    assert torch.equal(with_hole.ids, whole.ids)
    assert torch.equal(with_hole.example, whole.example)
    assert groups.counts(np.array([0, -1, 1]), np.zeros(3, np.uint64)).tolist() == [1, 0, 1]
    assert not (read(groups, -1).example >= 0).any()


def test_a_text_is_cut_after_the_tokens_of_its_role_and_that_is_said(make_groups, tokenizer):
    form = TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'}, max_tokens={'positive': 2})
    groups = make_groups(form, TRIPLETS)
    number = find(groups, 'a cat')
    _, positive, *_ = segments(read(groups, number))
    ids = tokenizer.encode('the cat sat')
    assert positive[1:-1] == ids[:2]
    assert groups.render(number)[2] == ('positive', f'{tokenizer.decode(ids[:2])} [{len(ids) - 2} tokens cut]')
    assert '50.0% of the texts are cut' in groups.describe()[2]
    assert '0.0% of the texts are cut' in groups.describe()[1]


def test_prompts_stand_before_the_texts_of_their_roles_within_the_longest_text(make_groups, tokenizer, triplets):
    triplets.use_prompts({'query': 'the ', 'document': 'a '})
    groups = make_groups(triplets, TRIPLETS, max_len=8)
    batch = read(groups, find(groups, 'a cat'))
    prompts = [tokenizer.encode(text) for text in ('the ', 'a ', 'a ', 'a ')]
    texts = [tokenizer.encode(text) for text in ('a cat', 'the cat sat', 'a dog', 'a mat')]
    assert [found[1:-1] for found in segments(batch)] == [(a + b)[:6] for a, b in zip(prompts, texts)]
    assert of_texts(batch, batch.targets.n_prompt) == [1 + len(prompt) for prompt in prompts]
    triplets.use_prompts({'anchor': 'the cat sat on the mat and ran'})
    with pytest.raises(SettingsError, match='prompt of the role anchor'):
        read(groups, 0)


def test_an_instruction_stands_before_its_text_and_is_no_part_of_its_hash(make_groups, tokenizer):
    form = TextGroups({'anchor': 'query', 'positive': 'pos'}, instructions=True)
    records = [
        {'query': ['the mat', 'a cat'], 'pos': [['a far', 'the cat sat']]},
        {'query': ['ran', 'a cat'], 'pos': ['sat', 'a dog']},
    ]
    groups = make_groups(form, records)
    batch = read(groups, find(groups, 'the mata cat'), find(groups, 'rana cat'))
    assert segments(batch)[0][1:-1] == tokenizer.encode('the mat') + tokenizer.encode('a cat')
    n_prompt = of_texts(batch, batch.targets.n_prompt)
    assert n_prompt[0] == 1 + len(tokenizer.encode('the mat'))
    hashes = of_texts(batch, batch.targets.text_hash)
    assert hashes[0] == hashes[2]


def test_drawn_texts_follow_from_the_key_alone(make_groups):
    form = TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'}, n_negatives=2)
    negatives = ['a mat', 'a dog', 'ran', 'sat', 'far']
    groups = make_groups(form, [{'query': 'a cat', 'pos': ['the cat', 'cat'], 'neg': negatives}])
    drawn = set()
    for seed in range(30):
        batch = read(groups, 0, seed=seed)
        assert of_texts(batch, batch.role) == [ANCHOR, POSITIVE, NEGATIVE, NEGATIVE]
        assert torch.equal(batch.ids, read(groups, 0, seed=seed).ids)
        drawn.add(tuple(map(tuple, segments(batch))))
    assert len(drawn) > 10


def test_rows_of_a_device_hold_whole_texts_and_as_many_segments_each(make_groups, triplets):
    groups = make_groups(triplets, TRIPLETS, device_tokens=16, max_len=16)
    batch = read(groups, 0, 1)
    b, n = batch.ids.shape
    assert n == 16
    assert b > 1
    starts = batch.layout.starts
    per_row = (len(starts) - 1) // b
    assert starts[::per_row].tolist() == list(range(0, b * n + 1, n))
    whole = read(make_groups(triplets, TRIPLETS), 0, 1)
    assert segments(batch) == segments(whole)
    assert of_texts(batch, batch.targets.text_hash) == of_texts(whole, whole.targets.text_hash)


def test_labels_are_classes_of_all_documents_and_scores_are_scaled(make_groups):
    pairs = [{'a': 'a cat', 'b': 'the cat', 'y': y, 's': s} for y, s in (('no', 5), ('yes', 0), ('no', 2.5))]
    groups = make_groups(TextGroups({'a': 'a', 'b': 'b'}, label='y', score='s', score_range=[0.0, 5.0]), pairs)
    assert groups.classes == ['no', 'yes']
    batch = read(groups, 0, 1, 2)
    scores = np.array(of_texts(batch, batch.targets.score)).reshape(3, 2)
    assert sorted(zip(batch.targets.label.tolist(), scores[:, 1].tolist())) == [(0, 0.5), (0, 1.0), (1, 0.0)]
    assert (scores[:, 0] == 0).all()


def test_teacher_scores_and_vectors_stand_at_their_texts(make_groups):
    form = TextGroups(
        {'anchor': 'q', 'positive': 'p', 'negatives': 'n'}, scores=['ps', 'ns'], vectors=['qv', 'pv', 'nv']
    )
    record = {'q': 'a', 'p': ['the'], 'n': ['cat', 'dog'], 'ps': [3.5], 'ns': [-1, 0.25], 'qv': [1, 2]}
    groups = make_groups(form, [{**record, 'pv': [[3, 4]], 'nv': [[5, 6], [7, 8]]}])
    batch = read(groups, 0)
    assert of_texts(batch, batch.targets.score) == [0, 3.5, -1, 0.25]
    assert of_texts(batch, batch.targets.vector) == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_copies_have_the_same_texts_roles_and_labels(make_corpus):
    form = TextGroups({'a': 'a', 'b': 'b'}, label='y')
    records = [('ab', 'c', 0), ('a', 'bc', 0), ('ab', 'c', 1), ('ab', 'c', 0)]
    corpus = make_corpus(form, [{'a': a, 'b': b, 'y': y} for a, b, y in records])
    assert len(np.unique(corpus.stores[0].hashes, axis=0)) == 3


REFUSALS = {
    'empty': ({'query': '', 'pos': ['a'], 'neg': []}, 'row 1: a text of the role anchor .* is empty'),
    'blank': ({'query': 'a', 'pos': ['a'], 'neg': ['\u3000\n']}, 'row 1: a text of the role negatives .* is empty'),
    'none': ({'query': 'a', 'pos': [], 'neg': []}, 'row 1: a text of the role positive .* is empty, or there is none'),
}


@pytest.mark.parametrize(('record', 'message'), REFUSALS.values(), ids=list(REFUSALS))
def test_an_empty_text_is_refused_or_left_out_and_counted(make_corpus, triplets, record, message):
    with pytest.raises(DataError, match=message):
        make_corpus(triplets, [TRIPLETS[0], record])
    lenient = TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'}, leave_out_empty=True)
    store = make_corpus(lenient, [TRIPLETS[0], record]).stores[0]
    assert len(store) == 1
    assert store.manifest['invalid'] == {'empty': {'count': 1, 'rows': [1]}}


def test_a_text_that_is_no_string_is_left_out_and_counted(make_corpus, triplets):
    store = make_corpus(triplets, [TRIPLETS[0], {'query': None, 'pos': ['a'], 'neg': []}]).stores[0]
    assert store.manifest['invalid'] == {'not a string': {'count': 1, 'rows': [1]}}


@pytest.mark.parametrize(
    ('options', 'record', 'message'),
    [
        ({'score': 's'}, {'s': 3}, 'score in the column .s. is 3, outside 0 to 1'),
        ({'score': 's'}, {'s': 'much'}, "holds 'much' where a finite number belongs"),
        ({'label': 's'}, {'s': 1.5}, 'a label is a text or a whole number'),
        ({'label': 's'}, {'s': None}, 'holds None'),
        ({'vectors': 's'}, {'s': [1, 2]}, r'1 vectors \(s\) for 2 texts'),
    ],
)
def test_values_that_do_not_belong_are_refused_with_their_row(make_corpus, options, record, message):
    with pytest.raises(DataError, match=f'row 0: .*{message}'):
        make_corpus(TextGroups({'a': 'a', 'b': 'b'}, **options), [{'a': 'cat', 'b': 'dog', **record}])


def test_a_role_that_names_no_column_is_refused(make_corpus, triplets):
    with pytest.raises(SettingsError, match="no column 'neg'; its columns are query, pos"):
        make_corpus(triplets, [{'query': 'a', 'pos': ['b']}])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'roles': {'anchor': 'q'}}, 'names anchor; name anchor and positive'),
        ({'roles': {'anchor': 'q', 'positive': []}}, 'roles.positive names no column'),
        ({'roles': {'a': ['q', 'r'], 'b': 'p'}}, 'roles.a has 2 columns'),
        ({'roles': {'a': 'q', 'b': 'q'}}, "has the column 'q' as a and as b"),
        ({'roles': {'anchor': 'q', 'positive': 'p'}, 'score': 's'}, 'score goes with the roles a and b'),
        ({'roles': {'a': 'q', 'b': 'p'}, 'scores': 's'}, 'scores go with positives'),
        ({'roles': {'a': 'q', 'b': 'p'}, 'score_range': [1.0, 1.0]}, r'score_range is \[1.0, 1.0\]'),
        ({'roles': {'a': 'q', 'b': 'p'}, 'max_tokens': {'c': 3}}, "max_tokens has 'c'"),
        ({'roles': {'text': 't'}, 'n_negatives': 0}, 'n_negatives is 0'),
    ],
)
def test_settings_that_do_not_belong_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextGroups(**options)


def test_batching_of_anchors_has_no_duplicates_and_that_of_pairs_is_the_order():
    assert type(TextGroups({'text': 't'}).batching) is InOrder
    assert TextGroups({'anchor': 'q', 'positive': 'p'}).settings()['batching'] == {'class': 'NoDuplicates'}


def test_an_index_that_was_changed_is_refused_by_its_file(make_corpus, triplets, tmp_path):
    corpus = make_corpus(triplets, TRIPLETS)
    assert verify_index(corpus, tmp_path / 'index') is None
    index = make_index(corpus, tmp_path / 'index')
    assert verify_index(corpus, tmp_path / 'index').roles.tolist() == index.roles.tolist()
    file = index.folder / 'roles.bin'
    file.write_bytes(b'\x01' + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r'roles\.bin is not what'):
        verify_index(corpus, tmp_path / 'index')


def test_one_column_may_be_anchor_and_positive(make_groups):
    groups = make_groups(TextGroups({'anchor': 'query', 'positive': 'query'}), TRIPLETS)
    batch = read(groups, 0, 1)
    first, second, *_ = segments(batch)
    assert first == second
    assert of_texts(batch, batch.role) == [ANCHOR, POSITIVE, ANCHOR, POSITIVE]


LABELLED = [{'t': f'cat {i}', 'y': y} for i, y in enumerate('aabc')]


@pytest.mark.parametrize(
    ('form', 'needs', 'n_together', 'message'),
    [
        (TextGroups({'anchor': 'query', 'positive': 'pos'}), ('positive',), 1, 'there is one group at a time'),
        (TextGroups({'anchor': 'query', 'positive': 'pos'}), ('positive', 'negative'), 4, 'which needs negatives'),
        (TextGroups({'anchor': 'query', 'positive': 'pos'}), ('label',), 4, 'which needs labels'),
        (TextGroups({'text': 't'}, label='y'), ('positive',), 4, 'which needs a second text'),
        (TextGroups({'text': 't'}, label='y'), ('label',), 4, 'two texts in each of two classes .* are a 2, b 1, c 1'),
    ],
)
def test_what_an_objective_needs_and_the_groups_lack_is_named(make_groups, form, needs, n_together, message):
    groups = make_groups(form, TRIPLETS if 'anchor' in form.roles else LABELLED)
    with pytest.raises(SettingsError, match=f'model.objective is Some, .*{message}'):
        form.require([('Some', needs)], groups, n_together)


def test_groups_that_suffice_are_not_refused(make_groups, triplets):
    triplets.require([('Some', ('positive', 'negative'))], make_groups(triplets, TRIPLETS), 1)
    form = TextGroups({'text': 't'}, label='y')
    form.require([('Some', ('label',))], make_groups(form, [*LABELLED, {'t': 'dog', 'y': 'b'}]), 4)
    without = [{**record, 'neg': []} for record in TRIPLETS]
    with pytest.raises(SettingsError, match=r'no record has one in the columns of data.examples.roles.negatives'):
        triplets.require([('Some', ('negative',))], make_groups(triplets, without), 4)


def test_a_store_that_is_ready_is_not_made_again(tmp_path, tokenizer):
    path = tmp_path / 'records.jsonl'
    path.write_text('\n'.join(map(json.dumps, TRIPLETS)))
    form = TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'})
    said = []
    for _ in range(2):
        prepare_store(form.source(Location(str(path))), tokenizer, tmp_path / 'store', form.columns, say=said.append)
    assert len(said) == 1
