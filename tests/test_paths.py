"""The cache folder."""

import inspect

from xlabml import paths


def test_the_cache_folder_is_the_users_choice_and_has_all_the_others(monkeypatch, tmp_path):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path))
    assert paths.cache_folder() == tmp_path
    others = [function() for _, function in inspect.getmembers(paths, inspect.isfunction)]
    others.remove(tmp_path)
    assert all(folder.parent == tmp_path for folder in others)
    assert len(set(others)) == len(others) > 5
    monkeypatch.delenv('XLABML_CACHE')
    assert paths.cache_folder().parts[-2:] == ('.cache', 'xlabml')
