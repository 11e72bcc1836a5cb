"""Curves for TensorBoard: read as its own are, and given up without a word more than one."""

import threading

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xlabml.callbacks.events import Events


def logger(folder, told, **options):
    made = Events(folder, 'logs', 'version_0', **options)
    made.give_up = told.append
    return made


def read(folder, name):
    events = EventAccumulator(str(folder / 'logs/version_0'), purge_orphaned_data=True)
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(name)]


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
