"""Renderings and filters of metadata, the order of markers, and what records are refused for."""

import pytest

from xlabml.errors import DataError, SettingsError
from xlabml.metadata import (
    Datasource,
    Entity,
    EntityParagraph,
    Html,
    KeyValue,
    Length,
    LocalKeyValue,
    LocalTemplate,
    Paragraph,
    SentenceLength,
    Span,
    Template,
    Timestamp,
    Title,
    Url,
    WebsiteDescription,
    columns_of,
    render,
)


def insert(text, spans, types):
    """A text with the markers of some spans, each a column of its type."""
    record = {kind.column or kind.key: spans.get(kind.key, []) for kind in types}
    found = render(text, record, types, 'columns', 'here')
    said = ''
    end = 0
    for marker in found.markers:
        said += text[end : marker.at] + marker.text
        end = marker.at
    return said + text[end:]


@pytest.mark.parametrize(
    ('kind', 'value', 'said'),
    [
        (Timestamp(), '2018-12-10T13:45:00.000Z', 'Year: 2018 | Month: December'),
        (Timestamp(), '2018', 'Year: 2018'),
        (Timestamp(), 'soon', ''),
        (Url(), 'https://a.org/b%20c', 'url: https://a.org/b c'),
        (Title(), ' Moby Dick', 'Title: Moby Dick'),
        (WebsiteDescription(), 'a site', 'Website Description: a site'),
        (Datasource(), 'https://www.a.org/sports/2020/2020-games/page.html', 'Datasource: a.org > sports > 2020-games'),
        (Datasource(), 'a.org > sports', 'Datasource: a.org > sports'),
        (Length(), '12', 'Text Length: 12'),
        (KeyValue('genre'), 'news', 'genre: news'),
        (Template('genre', 'A {key} of {value}.'), '{key}', 'A genre of {key}.'),
        (Template('genre', 'A {value}.'), ' ', ''),
    ],
)
def test_a_value_is_written_as_its_type_says(kind, value, said):
    assert kind.render(value) == said


@pytest.mark.parametrize(
    ('kind', 'spans', 'said'),
    [
        (LocalKeyValue('k'), [('v', 1, 3)], 'a[k: v]bc[/k: v]d'),
        (LocalTemplate('k', '<{value}>'), [('v', 1, 3)], 'a<v>bcd'),
        (Entity(), [('New_York', 0, 2)], 'ab [[New York]]cd'),
        (EntityParagraph(), [('X_Y', 2, 4)], 'ab|X Y| cd'),
        (EntityParagraph(at_end=True), [('X', 2, 4)], 'abcd |X|'),
        (Paragraph(), [('', 0, 2)], '[paragraph]ab[/paragraph]cd'),
        (SentenceLength(), [('2', 2, 4)], 'ab[Sentence Length: 2] cd'),
        (Entity(wrap=['<E>', '</E>']), [('x', 0, 1)], 'a<E> [[x]]</E>bcd'),
        (Html(), [('body', 0, 4), ('p', 1, 3), ('i', 2, 2), ('td', 3, 3)], 'a<p>bc</p><td></td>d'),
        (Html(least_chars=0, dropped={'p': [0.0, 2.0]}), [('p', 1, 3), ('b', 2, 2)], 'ab<b></b>cd'),
    ],
)
def test_markers_stand_around_their_span(kind, spans, said):
    assert insert('abcd', {kind.key: [dict(zip(('value', 'start', 'end'), span)) for span in spans]}, [kind]) == said


def test_html_writes_the_attributes_that_are_asked_for():
    span = Span('div', 0, 1, attributes=(('class', 'note'), ('style', 'x'), ('id', '7')))
    assert Html().render(span) == ('<div class:note id:7>', '</div>')
    assert Html(attributes=['style']).render(span) == ('<div style:x>', '</div>')


def test_at_one_character_ends_come_first_then_empty_spans_then_begins_and_the_earlier_type_is_the_inner_one():
    first, second, html = LocalKeyValue('a'), LocalKeyValue('b'), Html(least_chars=0)
    around = [{'value': '', 'start': 0, 'end': 2}, {'value': '', 'start': 2, 'end': 4}]
    assert insert('wxyz', {'a': around, 'b': around}, [first, second]) == ('[b][a]wx[/a][/b][b][a]yz[/a][/b]')
    empty = {'value': '', 'start': 2, 'end': 2}
    assert insert('wxyz', {'a': around, 'b': [empty]}, [first, second]) == '[a]wx[/a][b][/b][a]yz[/a]'
    ordered = [
        {'value': 'p', 'start': 2, 'end': 4, 'relative_start_pos': 0, 'relative_end_pos': 1},
        {'value': 'b', 'start': 2, 'end': 4, 'relative_start_pos': 1, 'relative_end_pos': 0},
    ]
    assert insert('wxyz', {'a': around, 'html': ordered}, [first, html]) == '[a]wx[/a]<p><b>[a]yz[/a]</b></p>'


@pytest.mark.parametrize(
    ('spans', 'said'),
    [
        ([{'start': 2, 'end': 9}], "here, column 'k': k: the span 2 to 9 lies outside its text of 4 characters"),
        ([{'start': 0, 'end': 2}, {'start': 1, 'end': 3}], 'the spans 0 to 2 and 1 to 3 cross'),
        ([{'start': 0, 'end': 2}, {'start': 0, 'end': 2}], 'two spans go from 0 to 2 without a relative order'),
        ([{'start': 0, 'end': 2, 'relative_start_pos': 0}], 'some spans have a relative order and others none'),
        ([{'start': 0, 'end': '2'}], "a span has the offset '2'"),
        ('nonsense', "'nonsense' is no JSON list of items"),
        ([3], 'is no list of items'),
    ],
)
def test_spans_that_do_not_fit_are_refused_by_row_and_column(spans, said):
    with pytest.raises(DataError, match=said.replace('(', r'\(')):
        insert('abcd', {'k': spans}, [LocalKeyValue('k')])


def test_two_markers_of_one_place_and_order_are_refused():
    twice = [{'start': i, 'end': 2, 'relative_start_pos': 0, 'relative_end_pos': 0} for i in range(2)]
    with pytest.raises(DataError, match='2 markers at character 2 have the relative order 0'):
        insert('abcd', {'k': twice}, [LocalKeyValue('k')])


def test_both_schemas_of_json_lists_hold_the_same_metadata():
    types = [Title(), Length(), SentenceLength(), Entity()]
    title = {'key': 'title', 'type': 'global', 'value': 'T'}
    items = [
        title,
        {'key': 'length', 'type': 'global', 'value': '4'},
        {'key': 'length', 'type': 'local', 'value': '2', 'char_start_idx': 2, 'char_end_idx': 4},
        {'key': 'entity', 'type': 'local', 'value': 'E', 'char_start_idx': 0, 'char_end_idx': 2},
    ]
    v2 = {
        'metadata_title': [{'value': 'T'}],
        'metadata_generation_length_text': [{'value': '4', 'type': 'global'}],
        'metadata_generation_length_sentence': [{'value': '2', 'char_start_idx': 2, 'char_end_idx': 4}],
        'metadata_entity': [{**items[3], 'key': 'entity'}],
    }
    assert set(columns_of(types, 'v2')) == set(v2)
    found = render('abcd', {'metadata': items}, types, 'v1', 'here')
    assert render('abcd', v2, types, 'v2', 'here') == found
    assert [text for _, text in found.before] == ['Title: T', 'Text Length: 4']
    assert [marker.text for marker in found.markers] == [' [[E]]', '[Sentence Length: 2] ']


def test_an_unknown_type_is_refused_and_a_value_that_says_nothing_is_counted():
    with pytest.raises(DataError, match="here, column 'metadata': an item has the unknown type 'mood'"):
        render('a', {'metadata': [{'key': 'mood', 'value': 'x'}]}, [Title()], 'v1', 'here')
    with pytest.raises(DataError, match='an item of title is local, but title is global'):
        render('a', {'metadata': [{'key': 'title', 'type': 'local', 'value': 'x'}]}, [Title()], 'v1', 'here')
    assert render('a', {'timestamp': 'soon'}, [Timestamp()], 'columns', 'here').lost == {
        'timestamp: renders to nothing': 1
    }
    assert render('a', {'timestamp': None}, [Timestamp()], 'columns', 'here').lost == {}


def test_a_control_word_stands_before_texts_that_have_its_markers():
    types = [Title(), Entity(control='entity')]
    spans = [{'value': 'E', 'start': 0, 'end': 1}]
    assert render('ab', {'title': 'T', 'entity': spans}, types, 'columns', 'here').before == [
        (0, 'Title: T'),
        (1, 'entity'),
    ]
    assert render('ab', {'title': 'T', 'entity': []}, types, 'columns', 'here').before == [(0, 'Title: T')]


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda: KeyValue('a b'), "has the key 'a b'"),
        (lambda: Template('a', 'x'), 'which never says the value'),
        (lambda: LocalTemplate('a'), 'the template of a marks nothing'),
        (lambda: Entity(wrap=['x']), 'wrap has 1 texts'),
        (lambda: Html(dropped={'p': [3.0, 1.0]}), r'dropped.p is \[3.0, 1.0\]'),
    ],
)
def test_types_that_cannot_be_written_are_refused(make, said):
    with pytest.raises(SettingsError, match=said):
        make()
