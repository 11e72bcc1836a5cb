"""Any text in, the same text out; and no model that could not promise it."""

import io
import pickle
import random
import subprocess
import sys

import pytest
import sentencepiece

from xlabml.tokenizer import RESERVED_PIECES, Tokenizer

BY_HAND = [
    '',
    ' ',
    '  leading, trailing  ',
    '\u2581',
    '\u2581\u2581',
    ' \u2581 \u2581\u2581a\u2581',
    '#\u2581##<U-2581>#<U-2581>',
    '\u2585\u2047',
    '<0xE2>',
    '<0xE2><0x96><0x81>',
    '<unk><sos><eos><pad><mask><cls><sep><reserved_0>',
    'a\0b\x01\x7f',
    '\r\n\n\r\t',
    '\ufeffbom',
    '\ufffd\uffff\U0010ffff',
    'e\u0301\u00e9\ufb01\uff21\u00a0\u3000',
    '\U0001f469\u200d\U0001f469\u200d\U0001f467',
]


def random_texts(n, seed):
    """Texts of up to 12 units, each a character that troubles tokenizers, one of any plane, or a bit of prose."""
    draw = random.Random(seed)
    pool = [
        '\u2581',
        '#',
        '<U-2581>',
        ' ',
        '  ',
        'a',
        'the',
        '\n',
        '\r',
        '\t',
        '\0',
        '<sos>',
        '<0xE2>',
        '\ufeff',
        '\u2585',
    ]

    def unit():
        if draw.random() < 0.6:
            return draw.choice(pool)
        limit = draw.choice([0x20, 0x80, 0x800, 0x10000, 0x110000])
        point = draw.randrange(limit)
        return chr(point) if not 0xD800 <= point < 0xE000 else 'x'

    return [''.join(unit() for _ in range(draw.randrange(13))) for _ in range(n)]


def check_round_trip(tokenizer, texts):
    encoded = tokenizer.encode(texts)
    table, reserved = tokenizer.piece_bytes, set(tokenizer.reserved_ids)
    for text, ids in zip(texts, encoded):
        assert b''.join(table[id] for id in ids) == text.encode(), repr(text)
        assert reserved.isdisjoint(ids), repr(text)
    assert tokenizer.decode(encoded) == texts


@pytest.mark.parametrize('text', BY_HAND)
def test_decoding_undoes_encoding_alone_and_in_a_batch(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(['x', text, '\u2581']) == [tokenizer.encode(item) for item in ('x', text, '\u2581')]


def test_the_bytes_of_any_text_are_those_of_its_pieces(tokenizer):
    check_round_trip(tokenizer, [*BY_HAND, *random_texts(2_000, seed=1)])


@pytest.mark.slow
def test_the_bytes_of_any_text_are_those_of_its_pieces_100_000_times(tokenizer):
    check_round_trip(tokenizer, random_texts(100_000, seed=2))
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    check_round_trip(tokenizer, [''.join(every[i : i + 64]) for i in range(0, len(every), 64)])


def test_the_space_mark_is_spelt_in_bytes_and_never_a_space(tokenizer):
    assert tokenizer.tokenize('\u2581') == ['<0xE2>', '<0x96>', '<0x81>']
    assert tokenizer.encode('a\u2581b') == tokenizer.encode('a') + tokenizer.encode('\u2581') + tokenizer.encode('b')


@pytest.mark.parametrize(
    ('text', 'where'), [('ab\ud800', 'U+D800, at character 2'), ('\udfffa', 'U+DFFF, at character 0')]
)
def test_a_lone_surrogate_is_refused_by_place_and_name(tokenizer, text, where):
    with pytest.raises(ValueError, match=r'lone surrogate, ' + where.replace('+', r'\+')):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match=r'^text 1 holds a lone surrogate'):
        tokenizer.encode(['fine', text])


def test_a_stream_gives_what_decode_gives_and_never_half_a_character(tokenizer):
    draw = random.Random(3)
    sequences = [tokenizer.encode(text) for text in BY_HAND]
    sequences += [[draw.randrange(len(tokenizer)) for _ in range(40)] for _ in range(50)]
    for ids in sequences:
        stream = tokenizer.stream()
        parts = [stream.push(id) for id in ids]
        assert ''.join([*parts, stream.close()]) == tokenizer.decode(ids)
    stream = tokenizer.stream()
    assert [stream.push(id) for id in tokenizer.encode('\u2581')] == ['', '', '\u2581']
    assert stream.close() == ''


def test_the_first_pieces_are_reserved_and_say_nothing(tokenizer):
    assert [tokenizer.piece(id) for id in tokenizer.reserved_ids] == list(RESERVED_PIECES)
    assert [tokenizer[piece] for piece in RESERVED_PIECES] == list(range(12))
    special = [tokenizer.unk_token, tokenizer.sos_token, tokenizer.eos_token, tokenizer.pad_token]
    assert [tokenizer[piece] for piece in special] == [0, 1, 2, 3]
    assert tokenizer.decode(tokenizer.reserved_ids) == ''


def test_pieces_are_reserved_or_bytes_or_learned(tokenizer):
    a, the = tokenizer['a'], tokenizer['\u2581the']
    assert tokenizer.is_learned(a)
    assert tokenizer.is_char(a)
    assert tokenizer.is_learned(the)
    assert not tokenizer.is_char(the)
    assert tokenizer.is_byte(12)
    assert not tokenizer.is_learned(12)
    assert not tokenizer.is_learned(3)
    assert tokenizer.piece_bytes[the] == b' the'
    assert tokenizer.piece_bytes[12:268] == [bytes([byte]) for byte in range(256)]


def test_unknown_pieces_and_ids_are_refused(tokenizer):
    with pytest.raises(ValueError, match="has no piece 'nothing of the kind'"):
        tokenizer['nothing of the kind']
    for id in (-1, 400):
        for call in (tokenizer.piece, tokenizer.stream().push, lambda id: tokenizer.decode([id])):
            with pytest.raises(ValueError, match=rf'has no id {id}; ids are 0 to 399'):
                call(id)


def test_a_tokenizer_is_its_bytes(tokenizer, tmp_path):
    (tmp_path / 'copy.model').write_bytes(tokenizer.data)
    for copy in (
        Tokenizer.load(tmp_path / 'copy.model'),
        Tokenizer.from_bytes(tokenizer.data),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert (copy.hash, len(copy), copy.encode('the cat')) == (tokenizer.hash, 400, tokenizer.encode('the cat'))


def test_a_model_cut_anywhere_is_refused_by_path(tokenizer, tmp_path):
    path, n = tmp_path / 'cut.model', len(tokenizer.data)
    for cut in [0, 1, *range(50, n, 211), *range(n - 120, n)]:
        path.write_bytes(tokenizer.data[:cut])
        with pytest.raises(ValueError, match=r'cut\.model'):
            Tokenizer.load(path)


def test_a_damaged_model_is_refused_by_path_or_gives_back_what_it_reads(tokenizer, tmp_path):
    draw, path, n_refused = random.Random(0), tmp_path / 'damaged.model', 0
    for _ in range(400):
        content = bytearray(tokenizer.data)
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            found = Tokenizer.load(path)
        except ValueError as error:
            n_refused += 1
            message = str(error)
        else:
            message = str(path)
            assert all(found.decode(found.encode(text)) == text for text in BY_HAND)
        assert f'{path}' in message
    assert n_refused > 200


def test_an_absent_file_is_refused_by_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no tokenizer at .*gone\.model'):
        Tokenizer.load(tmp_path / 'gone.model')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bos_piece': '<s>'}, "has '<s>' as token 1, where '<sos>' must be"),
        ({'control_symbols': list(RESERVED_PIECES[4:-1])}, "where '<reserved_4>' must be"),
        (
            {'control_symbols': [], 'user_defined_symbols': list(RESERVED_PIECES[4:])},
            "contain its special token '<mask>'",
        ),
        ({'byte_fallback': False, 'vocab_size': 300, 'hard_vocab_limit': False}, 'has no byte fallback'),
        ({'control_symbols': [*RESERVED_PIECES[4:], '<more>']}, 'has no byte fallback: token 12'),
        ({'normalization_rule_name': 'nmt_nfkc'}, 'it normalizes texts'),
        ({'add_dummy_prefix': True}, 'it normalizes texts or adds a prefix'),
        ({'remove_extra_whitespaces': True}, 'it normalizes texts'),
    ],
)
def test_a_model_that_loses_text_is_refused(change, message):
    model = io.BytesIO()
    settings = {
        'model_type': 'bpe',
        'vocab_size': 300,
        'byte_fallback': True,
        'normalization_rule_name': 'identity',
        'add_dummy_prefix': False,
        'remove_extra_whitespaces': False,
        'unk_id': 0,
        'bos_id': 1,
        'eos_id': 2,
        'pad_id': 3,
        'unk_piece': '<unk>',
        'bos_piece': '<sos>',
        'eos_piece': '<eos>',
        'pad_piece': '<pad>',
        'control_symbols': list(RESERVED_PIECES[4:]),
        'minloglevel': 2,
    }
    texts = ['the quick brown fox jumps over the lazy dog'] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **{**settings, **change}
    )
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_bytes(model.getvalue())


def test_importing_the_room_loads_no_torch_and_no_numpy():
    code = (
        "import sys, xlabml.tokenizer; print([name for name in ('torch', 'numpy', 'lightning') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'
