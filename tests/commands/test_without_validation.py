"""Runs that no text is held back from for validation."""


def test_a_run_without_a_val_split_trains_and_has_nothing_to_validate_on(xlab, tiny, tmp_path):
    flags = [*tiny, '--data.splits={train: 0.9, val: 0, test: 0.1}', '--trainer.max_steps=2']
    status, printed = xlab('fit', *flags)
    assert status == 0, printed
    assert 'data.splits.val is 0: there is no validation, and no best checkpoint' in printed
    assert [path.name for path in tmp_path.glob('logs/version_0/checkpoints/*.ckpt')] == ['step=0000002.ckpt']
    status, printed = xlab('validate', '--ckpt_path', 'last')
    assert status == 2
    assert 'there is nothing to validate on' in printed
    assert xlab('test', '--ckpt_path', 'last')[0] == 0
