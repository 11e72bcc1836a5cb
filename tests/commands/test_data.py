"""The subcommands that prepare data and look at it."""

import re

import pytest


@pytest.mark.parametrize('plan', ['Pack', 'Concat', 'Chunk'])
def test_validate_data_prints_whose_each_position_is(xlab, tiny, texts, corpus, plan):
    status, printed = xlab('validate_data', *tiny, f'--data.plan={plan}', '--map_rows=[0, 3]')
    assert status == 0, printed
    assert 'is as it was written' in printed
    for row in (0, 3):
        found = re.findall(rf'train row {row}, positions (\d+) to (\d+): (.*)', printed)
        assert [int(first) for first, _, _ in found] == [0, *(int(last) + 1 for _, last, _ in found[:-1])]
        assert found[-1][1] == '31'
        for first, last, what in found:
            if what != 'padding':
                document, begin, end = map(int, re.fullmatch(r'document (\d+), offsets (\d+) to (\d+)', what).groups())
                assert document < len(texts)
                assert end - begin == int(last) - int(first)


def test_validate_data_compares_a_store_with_its_hashes(xlab, tiny):
    _, printed = xlab('prepare_data', *tiny)
    folder = re.search(r'store: (\S+)', printed).group(1)
    status, printed = xlab('validate_data', *tiny)
    assert status == 0, printed
    assert f'{folder} is as it was written (300 documents)' in printed
    with open(f'{folder}/hashes.bin', 'r+b') as file:
        file.write(b'changed')
    status, printed = xlab('validate_data', *tiny)
    assert status == 1
    assert 'hashes.bin is not what manifest.json says' in printed


def test_a_row_that_is_not_there_is_refused(xlab, tiny):
    status, printed = xlab('validate_data', *tiny, '--map_rows=[100000]', '--map_split=val')
    assert status == 1
    assert 'there is no row 100000' in printed


def test_compute_stats_says_what_each_plan_pads_and_cuts(xlab, tiny):
    cut = {}
    for plan in ('Pack', 'Concat', 'Chunk'):
        status, printed = xlab('compute_stats', *tiny, f'--data.plan={plan}')
        assert status == 0, printed
        used, padded = (
            int(n.replace(',', '')) for n in re.search(r'([\d,]+) slots used, ([\d,]+) pad', printed).groups()
        )
        cut[plan] = int(re.search(r'([\d,]+) tokens cut off', printed).group(1).replace(',', ''))
        assert (used + padded) % 32 == 0
    assert cut['Pack'] == cut['Chunk'] < cut['Concat']
