"""Pages as text: what stands in it, where tags begin and end, and pages as they are found."""

from pathlib import Path

import pytest

pytest.importorskip('lxml')

from xlabml.errors import SettingsError
from xlabml.metadata import Html, HtmlToText, check_spans, order_markers, preprocess, read_page

PAGES = Path(__file__).parent / 'pages'


def marked(page, **options):
    """The text with its tags written into it."""
    kind = Html(attributes=['class', 'id', 'href'], dropped={}, **options)
    text = ''
    at = 0
    for marker in order_markers([(0, span, kind) for span in page.spans if kind.keeps(span)]):
        text += page.text[at : marker.at] + marker.text
        at = marker.at
    return text + page.text[at:]


def test_a_page_is_its_text_and_its_tags_stand_where_they_stood():
    page = read_page(
        '<title> A  page </title><style>x</style><body><header>menu</header><div class=a id=b>\n<div><h1>Head</h1>'
        '<p>One <b>bold</b>, <i></i>two<br>three<p>Unclosed <a href=u>link</a></div></div><!-- no --><ul><li>x<li>y'
        '</ul><table><tr><td></td><td>c 1</td></table><pre>\n a\n   b\n</pre>tail &amp; end<script>no</script>'
    )
    assert page.title == 'A page'
    assert marked(page) == (
        '<body><div class:a id:b><h1>Head</h1>\n\n<p>One <b>bold</b>, two\nthree</p>\n\n<p>Unclosed <a href:u>link</a>'
        '</p></div>\n\n<ul><li>x</li>\n<li>y</li></ul>\n\n<table><tr><td></td> <td>c 1</td></tr></table>\n\n'
        '<pre> a\n   b</pre>\n\ntail & end</body>'
    )
    assert check_spans(page.spans, len(page.text)) is None


def test_short_blocks_and_what_is_dropped_are_left_out():
    source = f'<body><ul><li>Home<li>About</ul><h2>Short</h2><p>{"long " * 20}</p><aside>{"aside " * 20}</aside>'
    assert read_page(source, ['aside'], 65).text == f'Short\n\n{"long " * 20}'.strip()
    assert read_page(source, [], 1).text.startswith('Home\nAbout\n\nShort')


@pytest.mark.parametrize(
    ('name', 'title', 'said', 'unsaid'),
    [
        ('jobserver', 'Jobserver - The rustc book', 'rustc may take advantage of parallelism', 'window.playground'),
        ('macro', 'is_mips_feature_detected in std_detect - Rust', '("msa") => { ... };\n    ($t:tt,)', 'noscript'),
        ('guide-crates', 'The (old) Rust Crates and Modules Guide', 'This content has moved into\nthe', 'Copyright'),
    ],
)
def test_real_pages_are_read(name, title, said, unsaid):
    source = (PAGES / f'{name}.html').read_text('utf-8')
    page = read_page(source)
    assert page.title == title
    assert said.replace('\n', ' ') in page.text.replace('\n', ' ')
    assert unsaid not in page.text
    assert check_spans(page.spans, len(page.text)) is None
    by_tag = {span.value: page.text[span.start : span.end] for span in page.spans}
    assert by_tag['body'] == page.text
    assert set(by_tag['h1'].split()) & set(title.split())


def test_a_record_becomes_text_and_one_that_is_no_page_is_left_out():
    steps = [HtmlToText(least_chars=1)]
    text, columns, failed = preprocess(steps, '<title>T</title><p class=x>one', {'title': 'old'})
    assert (text, columns['title'], failed) == ('one', 'T', {})
    assert columns['html'][0]['html_attrs'] == {'attrs': ['class'], 'values': ['x']}
    assert preprocess(steps, ' ', {}) == ('', {'html': None, 'title': None}, {'HtmlToText: ValueError': 1})
    assert preprocess([HtmlToText('page')], 'x', {'page': 3})[2] == {'HtmlToText: TypeError': 1}
    with pytest.raises(SettingsError, match='least_chars is 0'):
        HtmlToText(least_chars=0)
