"""Columns that are made from addresses, texts and dictionaries."""

import importlib.util
import pickle

import pytest

from xlabml.errors import SettingsError
from xlabml.metadata import (
    DatasourceFromUrl,
    EntitiesByDictionary,
    EntitiesOfParagraphs,
    HtmlToText,
    LengthOfText,
    ParagraphsFromText,
    SentenceLengths,
    TimestampFromUrl,
    check_spans,
    columns_read,
    preprocess,
)
from xlabml.metadata.reading import render
from xlabml.metadata.types import LocalKeyValue


@pytest.mark.parametrize(
    ('url', 'found'),
    [
        ('https://a.org/2018/12/05/story', '2018-12-05'),
        ('https://a.org/2018/12/story', '2018-12'),
        ('https://a.org/news-2018-12-05.html', '2018-12-05'),
        ('https://a.org/20181205/x', '2018-12-05'),
        ('https://a.org/2018/x', '2018'),
        ('https://a.org/2017/2018/12/05', '2018-12-05'),
        ('https://a.org/x?id=2018', None),
        ('https://a.org/201812345', None),
        ('https://a.org/1850/12/05', None),
        ('https://a.org/2018/13/45', None),
        (None, None),
    ],
)
def test_a_date_is_read_from_an_address(url, found):
    assert TimestampFromUrl().process('x', {'url': url}) == ('x', {'timestamp': found})


def test_places_lengths_and_paragraphs():
    assert DatasourceFromUrl().process('', {'url': 'https://www.a.org/sports/12/x'})[1] == {
        'datasource': 'a.org > sports'
    }
    assert LengthOfText().process('four', {})[1] == {'length': '4'}
    text = 'One. Two...\n\n \nThree'
    spans = SentenceLengths().process(text, {})[1]['sentence_length']
    assert [(span['value'], text[span['start'] : span['end']]) for span in spans] == [
        ('4', 'One.'),
        ('6', 'Two...'),
        ('5', 'Three'),
    ]
    spans = ParagraphsFromText().process(text, {})[1]['paragraph']
    assert [text[span['start'] : span['end']] for span in spans] == ['One. Two...', 'Three']


def test_entities_are_whole_words_the_longest_first(tmp_path):
    path = tmp_path / 'names.tsv'
    path.write_text('New York\tNew_York_City\nYork\tYork\nNew York Times\tThe_Times\n\n', 'utf-8')
    steps = [EntitiesByDictionary(str(path)), ParagraphsFromText(), EntitiesOfParagraphs()]
    text = 'New York, York and Yorkshire.\n\nThe New  York Times of York, York.'
    for some in (steps, pickle.loads(pickle.dumps(steps))):
        _, columns, failed = preprocess(some, text, {})
        assert not failed
        found = [(span['value'], text[span['start'] : span['end']]) for span in columns['entity']]
        assert found == [
            ('New_York_City', 'New York'),
            ('York', 'York'),
            ('The_Times', 'New  York Times'),
            ('York', 'York'),
            ('York', 'York'),
        ]
    # Names of paragraphs are nested, so that several can stand at one place.
    kind = LocalKeyValue('entity_paragraph')
    said = render(text, columns, [kind], 'columns', 'x')
    assert [marker.text for marker in said.markers][:4] == [
        '[entity_paragraph: New_York_City]',
        '[entity_paragraph: York]',
        '[/entity_paragraph: York]',
        '[/entity_paragraph: New_York_City]',
    ]
    assert len(said.markers) == 8
    assert EntitiesByDictionary(str(path), True).process('york', {})[1]['entity'][0]['value'] == 'York'
    before = steps[0].settings()
    path.write_text('York\tYork\n', 'utf-8')
    assert EntitiesByDictionary(str(path)).settings() != before


def test_a_broken_dictionary_is_refused_by_line(tmp_path):
    path = tmp_path / 'names.jsonl'
    path.write_text('{"mention": "a", "name": "b"}\n{"mention": "a"}\n', 'utf-8')
    with pytest.raises(SettingsError, match=r'names\.jsonl, line 2'):
        EntitiesByDictionary(str(path))
    with pytest.raises(SettingsError, match='is no file'):
        EntitiesByDictionary(str(tmp_path / 'none'))


def test_what_is_made_is_not_asked_for_and_errors_are_counted():
    steps = [TimestampFromUrl(), ParagraphsFromText()]
    assert columns_read(steps, ['timestamp', 'title', 'paragraph']) == ['url', 'title']
    text, columns, failed = preprocess(steps, 'a', {'url': 3})
    assert (text, columns['timestamp'], failed) == ('a', None, {'TimestampFromUrl: TypeError': 1})
    assert columns['paragraph'] == [{'value': '', 'start': 0, 'end': 1}]
    assert check_spans([], 0) is None


@pytest.mark.skipif(importlib.util.find_spec('lxml') is not None, reason='lxml is there')
def test_html_names_its_extra():
    with pytest.raises(SettingsError, match='install the extra html'):
        HtmlToText()
