"""A few training documents of each class: which they are, that nothing else changes, and what is refused."""

import numpy as np
import pytest

from xlabml.data.groups import LabelledTexts, TextGroups
from xlabml.data.groups.few_shot import draw_per_class
from xlabml.errors import SettingsError

RATIOS = {'train': 0.6, 'val': 0.4}
RECORDS = [{'text': f'the {noun} {i}', 'stars': noun} for noun in ('cat', 'dog') for i in range(12)]
RECORDS += [{'text': f'a mat {i}', 'stars': 'mat'} for i in range(40)]


def texts_of(corpus, documents):
    return {corpus.name(document) for document in documents.tolist()}


def test_a_draw_has_as_many_of_each_class_and_grows(make_corpus):
    form = LabelledTexts(label='stars')
    corpus = make_corpus(form, RECORDS, ratios=RATIOS)
    train = corpus.documents('train')
    assert len(train) > 20
    few = {n: set(draw_per_class(corpus, train, n, 0).tolist()) for n in (1, 2, 4)}
    assert few[1] < few[2] < few[4] < set(train.tolist())
    labels = [corpus.columns(document)['@group']['label'] for document in sorted(few[4])]
    assert {name: labels.count(name) for name in set(labels)} == {'cat': 4, 'dog': 4, 'mat': 4}
    assert few[4] == set(draw_per_class(corpus, train, 4, 0).tolist())
    assert few[4] != set(draw_per_class(corpus, train, 4, 1).tolist())


def test_a_record_that_is_added_moves_no_other_but_what_it_replaces(make_corpus):
    form = LabelledTexts(label='stars')
    corpus = make_corpus(form, RECORDS)
    more = make_corpus(form, [*RECORDS, {'text': 'one more mat', 'stars': 'mat'}])
    few, others = (
        {one.tokens(i).tobytes() for i in draw_per_class(one, one.documents('train'), 4, 0).tolist()}
        for one in (corpus, more)
    )
    assert len(few - others) <= 1


def test_training_alone_is_drawn_and_classes_are_counted_in_it(make_corpus, make_reading):
    form = LabelledTexts(label='stars', per_class=2)
    corpus = make_corpus(form, RECORDS, ratios=RATIOS)
    reading = make_reading()
    assert len(form.examples(corpus, 'train', 'train', 0, reading)) == 6
    whole = LabelledTexts(label='stars')
    val = form.examples(corpus, 'val', 'val', 0, reading)
    assert np.array_equal(val.documents, whole.examples(corpus, 'val', 'val', 0, reading).documents)
    assert form.facts(corpus)['class_counts'] == [2, 2, 2]
    assert form.settings()['per_class'] == 2
    assert 'per_class' not in whole.settings()


def test_a_warm_up_of_vectors_has_the_documents_of_the_classifier(make_corpus, make_reading):
    reading = make_reading()
    found = []
    for form in (
        LabelledTexts(label='stars', per_class=3),
        TextGroups({'text': 'text'}, label='stars', per_class=3),
    ):
        corpus = make_corpus(form, RECORDS, ratios=RATIOS)
        splits = [form.examples(corpus, name, name, 0, reading).documents for name in ('train', 'val')]
        found.append([texts_of(corpus, documents) for documents in splits])
    assert found[0] == found[1]
    assert len(found[0][0]) == 9


def test_a_class_with_fewer_is_taken_whole_and_named(make_corpus):
    form = LabelledTexts(label='stars')
    corpus = make_corpus(form, RECORDS)
    with pytest.warns(UserWarning, match=r"2 of 3 classes have fewer than 30 training .* 'cat' \(12\), 'dog' \(12\)"):
        few = draw_per_class(corpus, corpus.documents('train'), 30, 0)
    assert len(few) == 12 + 12 + 30


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'label': 'stars', 'per_class': 0}, r'per_class is 0; give 1 or more'),
        ({'label': 'stars', 'draw': 2}, r'draw is 2, but per_class is not set'),
        ({'ratings': 'stars', 'per_class': 4}, r'name its column in data\.examples\.label'),
    ],
)
def test_what_is_no_draw_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        LabelledTexts(**options)
