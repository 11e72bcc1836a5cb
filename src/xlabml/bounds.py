"""Upper bounds of all integer settings, by the name of the argument.

A bound is far above any use: a number with a few zeros too many, typed or read from a file, is refused by name before
it forks processes, fills the memory or overflows a tensor. A test checks that every integer argument has a line here.
"""

from collections.abc import Iterator, Mapping

_STEPS = 1 << 48
"""Optimizer steps, and counts of tokens of a run: a run at a million steps a second would take nine years."""

_TABLE = 1 << 24
"""Sizes of a tensor: ids of a vocabulary, positions of a row, channels of a layer."""

MOST: dict[str, int] = {
    # the model
    **dict.fromkeys(('n_vocab', 'max_len', 'd_ff', 'separator'), _TABLE),
    **dict.fromkeys(('d_model', 'n_heads', 'n_kv_heads', 'd_in', 'd_out'), 1 << 20),
    **dict.fromkeys(('n_layers', 'global_every', 'rank'), 10_000),
    'shift_width': 1024,
    # of a pretrained encoder's config
    'config': _TABLE,
    **dict.fromkeys(('hidden_size', 'embedding_size', 'dim', 'num_attention_heads'), 1 << 20),
    **dict.fromkeys(('intermediate_size', 'hidden_dim', 'max_position_embeddings', 'type_vocab_size'), _TABLE),
    **dict.fromkeys(('num_hidden_layers', 'num_hidden_groups', 'inner_group_num'), 10_000),
    'window': _TABLE,
    'document': 1 << 30,
    'horizon_tokens': _STEPS,
    'ns_steps': 99,
    'min_steps': _STEPS,  # of the trainer, and of AdaptiveClip, which keeps it below window_steps
    'window_steps': 1_000_000,
    **dict.fromkeys(('warmup_steps', 'cooldown_steps', 'peak_steps', 'period_steps'), _STEPS),
    **dict.fromkeys(('n_classes', 'n_outputs', 'n_texts', 'widths'), _TABLE),
    **dict.fromkeys(('d_vector', 'd_teacher', 'dims', 'd_token', 'n_vectors', 'factor'), 1 << 20),
    # the data
    **dict.fromkeys(('batch_tokens', 'device_batch_tokens', 'batch_groups'), 1 << 36),
    **dict.fromkeys(('skip', 'skip_rows'), _STEPS),
    'reads': 1_000_000,
    'layers': 10_000,
    **dict.fromkeys(('n_processes', 'num_workers'), 1024),
    **dict.fromkeys(('seed', 'seed_everything'), (1 << 32) - 1),  # what Lightning seeds numpy with
    **dict.fromkeys(
        ('stride_tokens', 'max_documents', 'max_tokens', 'n_positives', 'n_negatives', 'per_class'), _TABLE
    ),
    **dict.fromkeys(('n_groups', 'block_groups', 'set_number'), _STEPS),
    'draw': (1 << 32) - 1,
    **dict.fromkeys(('max_windows', 'window_overlap'), _TABLE),
    'fold': _TABLE,
    'least_chars': _TABLE,
    'ngram_tokens': 100_000,
    'n_permutations': 65_536,
    **dict.fromkeys(('window_shards', 'eval_shards'), 1_000_000),
    # the trainer and what watches a run
    **dict.fromkeys(('devices', 'num_nodes'), 100_000),
    **dict.fromkeys(('max_steps', 'max_epochs', 'min_epochs', 'val_check_interval', 'log_every_n_steps'), _STEPS),
    **dict.fromkeys(('fast_dev_run', 'overfit_batches', 'num_sanity_val_steps', 'accumulate_grad_batches'), _STEPS),
    **dict.fromkeys((f'limit_{name}_batches' for name in ('train', 'val', 'test', 'predict')), _STEPS),
    **dict.fromkeys(('reload_dataloaders_every_n_epochs', 'check_val_every_n_epoch'), _STEPS),
    'precision': 64,
    'gradient_clip_val': _STEPS,
    'max_time': 1 << 31,
    **dict.fromkeys(('every_n_steps', 'spectra_every_n_steps', 'pin_steps', 'pin_every_n_steps'), _STEPS),
    **dict.fromkeys(('save_top_k', 'save_last_k', 'max_in_row'), _STEPS),
    **dict.fromkeys(('patience', 'notice'), _STEPS),
    'n_tokens': 1 << 16,  # sampled at each validation
    'top_k': _TABLE,
    'max_depth': 1000,
    # evaluators
    **dict.fromkeys(('first_year', 'last_year'), 9999),
    **dict.fromkeys(('at', 'k', 'n_folds', 'n_starts', 'n_steps', 'most_texts', 'val_documents', 'n_draws'), 1_000_000),
    # data commands
    **dict.fromkeys(('n_tasks', 'n_workers', 'n_cpus', 'memory_gb'), 1_000_000),
    'max_hours': 1_000_000,
    **dict.fromkeys(('map_rows', 'sample_size', 'n_examples', 'max_examples', 'max_features', 'render'), _STEPS),
}

ANY = 1 << 63
"""Upper bound of any integer without a bound of its own: no tensor, store or clock counts further."""


def check(settings: Mapping[str, object], where: str = '') -> None:
    """Refuse an integer beyond its bound.

    Args:
        settings: Plain values by name, nested or not.
        where: Prefix of the names: `data`, `model.trunk`; empty: none.

    Raises:
        ValueError: Names the setting and its bound.
    """
    for path, name, value in _whole_numbers(settings, where, ''):
        check_one(value, name, path)


def check_one(value: int, name: str, path: str) -> None:
    """`check` of one number: `name` is the argument's name, `path` its name in the message."""
    most = MOST.get(name, ANY - 1)
    if not -ANY < value <= most:
        raise ValueError(f'{path} is {shown(value)}; it can be at most {most}')


def shown(value: int) -> str:
    """An integer for people; the number of its digits if it has hundreds."""
    return str(value) if value.bit_length() <= 256 else f'a number of about {value.bit_length() * 3 // 10} digits'


def _whole_numbers(value: object, path: str, name: str) -> Iterator[tuple[str, str, int]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ('init_args', 'class_path'):
                yield from _whole_numbers(item, path, name)
            else:
                yield from _whole_numbers(item, f'{path}.{key}' if path else str(key), str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _whole_numbers(item, path, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, name, value
