"""Folders that a killed process left half-made or half-deleted: gone when the next one of their kind is made."""

import filelock

from xlabml.artifacts import folders

ONE, OTHER, LIVING = 'a' * 16, 'b' * 16, 'c' * 16


def build(folder, resumable=False):
    def fill(partial):
        (partial / 'x').write_text('x')
        return {'format': 1, 'files': {}}

    folders.build_folder(folder, fill, lambda: (folder / folders.MANIFEST).exists(), resumable=resumable)


def test_what_others_left_goes_but_not_what_is_being_made(tmp_path):
    names = [f'{OTHER}.partial', f'{OTHER}.dropped', f'{LIVING}.partial', 'mine.partial', f'{ONE}.partial']
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / 'half').write_text('half')
    (tmp_path / 'linked').mkdir()
    (tmp_path / f'{"d" * 16}.partial').symlink_to(tmp_path / 'linked')
    (tmp_path / 'linked/mine').write_text('mine')
    with filelock.FileLock(tmp_path / f'{LIVING}.lock'):
        build(tmp_path / ONE)
    there = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert there == {ONE, f'{LIVING}.partial', 'mine.partial', 'linked'}
    assert (tmp_path / 'linked/mine').read_text() == 'mine'


def test_what_can_be_gone_on_with_stays(tmp_path):
    (tmp_path / f'{OTHER}.partial').mkdir()
    build(tmp_path / ONE, resumable=True)
    assert (tmp_path / f'{OTHER}.partial').exists()


def test_of_a_link_the_link_is_removed(tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there/mine').write_text('mine')
    (tmp_path / 'link').symlink_to(tmp_path / 'there')
    (tmp_path / 'dead').symlink_to(tmp_path / 'nowhere')
    folders.remove(tmp_path / 'link')
    folders.remove(tmp_path / 'dead')
    (tmp_path / 'link').symlink_to(tmp_path / 'there')
    folders.drop(tmp_path / 'link')
    assert [path.name for path in tmp_path.rglob('*')] == ['there', 'mine']
