"""Curves for TensorBoard: read as its own are, grouped, and given up without a word more than one."""

import html
import re
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from xlabml.callbacks.events import Events
from xlabml.telemetry.tags import as_markdown, name_of, tag_of


def logger(folder, told, **options):
    made = Events(folder, 'logs', 'version_0', **options)
    made.give_up = told.append
    return made


def read(folder, name):
    events = EventAccumulator(str(folder / 'logs/version_0'), purge_orphaned_data=True)
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag_of(name))]


def test_tensorboard_reads_them_and_hides_what_a_resumed_run_makes_again(tmp_path):
    told = []
    for first, purge in ((1, None), (4, 4)):
        events = logger(tmp_path, told, purge_step=purge)
        for step in range(first, first + 6):
            events.log_metrics({'loss': 10.0 * first + step}, step)
        events.experiment.add_text('sample', 'abc', first)
        events.save()
        events.finalize('success')
    assert read(tmp_path, 'loss') == [(step, (10 if step < 4 else 40) + step) for step in range(1, 10)]
    assert not told
    assert not any('_AsyncWriter' in type(thread).__name__ for thread in threading.enumerate())


def test_a_row_is_in_the_file_when_it_is_logged(tmp_path):
    """A process that is killed loses none."""
    events = logger(tmp_path, [])
    for step in (1, 2):
        events.log_metrics({'loss': 1.0, 'accuracy': 0.5}, step)
        assert read(tmp_path, 'loss') == [(at, 1.0) for at in range(1, step + 1)]
        assert len(read(tmp_path, 'accuracy')) == step


def test_where_nothing_can_be_written_one_is_told_once(tmp_path, capfd):
    (tmp_path / 'logs').write_text('no folder')
    told = []
    events = logger(tmp_path, told)
    for step in range(3):
        events.log_metrics({'loss': 1.0}, step)
        events.save()
    events.finalize('success')
    assert [type(error) for error in told] in ([NotADirectoryError], [FileExistsError])
    assert capfd.readouterr().err == ''


def test_a_disk_that_fills_up_leaves_what_was_written(tmp_path, monkeypatch):
    told = []
    events = logger(tmp_path, told)
    events.log_metrics({'loss': 1.0}, 1)
    events.save()
    (path,) = (tmp_path / 'logs/version_0').glob('events.*')
    before = path.read_bytes()
    path.rename(path.with_name('moved'))
    path.mkdir()  # no more can be appended
    for step in (2, 3):
        events.log_metrics({'loss': 2.0}, step)
        events.save()
    assert [error.strerror for error in told] == ['Is a directory']
    assert path.with_name('moved').read_bytes() == before


TAGS = {
    'train_loss': 'loss/train',
    'val_bits_per_byte': 'bits_per_byte/val',
    'test_retrieval/ndcg@10': 'retrieval/ndcg@10/test',
    'tokens_per_second': 'speed/tokens_per_second',
    'time/step_seconds': 'speed/step_seconds',
    'gradient_norm': 'optimizer/gradient_norm',
    'learning_rate/matrices': 'optimizer/learning_rate/matrices',
    'memory/peak_mib': 'memory/peak_mib',
    'spectra/query/top': 'spectra/query/top',
    'share/texts/train': 'share/texts/train',
    'epochs': 'progress/epochs',
    'a_figure_of_another': 'a_figure_of_another',
}


def test_a_figure_has_one_tag_and_is_found_by_it():
    assert {name: tag_of(name) for name in TAGS} == TAGS
    assert {tag: name_of(tag) for tag in TAGS.values()} == {tag: name for name, tag in TAGS.items()}
    assert [name_of(name) for name in TAGS] == list(TAGS)  # the tags of earlier versions


def test_the_charts_open_on_the_loss_of_train_and_val_and_hide_the_spectra(tmp_path):
    made = logger(tmp_path, [])
    row = dict.fromkeys(['tokens', 'train_accuracy', 'train_auroc', 'train_loss', *TAGS], 1.0)
    made.log_metrics(row, 1)
    made.log_metrics(row, 2)
    made.log_settings({'model.trunk': 'Transformer', 'model.trunk.d_model': 64}, 'val_loss')
    made.save()
    assert [path.name[:6] for path in (tmp_path / 'logs/version_0').iterdir()] == ['events']
    events = EventAccumulator(str(tmp_path / 'logs/version_0'))
    events.Reload()
    (written,) = events.Tensors('custom_scalars__config__')
    layout = Layout.FromString(written.tensor_proto.string_val[0])
    first = layout.category[0].chart
    assert [chart.title for chart in first] == ['loss', 'bits per byte', 'accuracy', 'auroc', 'retrieval/ndcg@10']
    tags = ['loss/train', 'loss/val', 'loss/train_2', 'other/loss/val']
    assert [tag for tag in tags if re.match(first[0].multiline.tag[0], tag)] == tags[:2]
    assert {category.title: category.closed for category in layout.category}['spectra']
    assert not layout.category[0].closed
    assert '_hparams_/session_start_info' in events.summary_metadata


@pytest.mark.parametrize(
    'text', ['# a *b* _c_ `d`\n\n    1. <e> & [f](g)\n\t| h | i |\n---|---', '> x\n* y\n\n<script>z</script>', 'a  b ']
)
def test_a_sample_is_shown_as_it_is(text):
    assert shown(text) == text.replace('\t', '    ')


@given(st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Zl', 'Zp'])))
def test_markdown_eats_nothing_of_any_text(text):
    assert shown(text).split() == text.split()


def shown(text):
    """What TensorBoard shows of a text."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # of what tensorboard itself imports
        from tensorboard.plugin_util import markdown_to_safe_html
    inside = re.sub(r'^<p>|</p>$', '', markdown_to_safe_html(as_markdown(text)))
    assert not re.search(r'<(?!br>)', inside)
    return html.unescape(inside.replace('<br>', '\n')).replace('\xa0', ' ')
