"""Settings of rows do not bind data of groups, which are sized by groups."""

import functools

import pytest

from xlabml.data import Location
from xlabml.data.groups import TextGroups
from xlabml.datamodules import XLabDataModule


def test_a_longest_text_need_not_divide_the_tokens_of_a_step_of_rows(tmp_path):
    groups = functools.partial(TextGroups, roles={'anchor': 'q', 'positive': 'p'})
    sources = [Location(str(tmp_path / 'pairs.jsonl'))]
    assert XLabDataModule(sources, max_len=160, examples=groups).max_len == 160  # 1,024 is no multiple of it
    with pytest.raises(ValueError, match=r'batch_tokens is 1024, no multiple of data\.max_len, 160'):
        XLabDataModule(sources, max_len=160)
