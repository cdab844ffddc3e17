"""Damaged copies of text files, from slightly unusual to broken."""

WORDS = (
    b"nan inf -Infinity 1e39 -1e400 3.4028235e38 3.4028236e38 1e-400 1_0 0x10 1,5 --1 +-1 1. .5 1e "
    b"1e+ 1e5 1E-05 e5 + - . , +3 -0 -0.0 007 0 1 2 3 24 25 26 51 52 -1 1.0 4294967297 999999999 "
    b"1000000000000 12345.678901234567890 0.1234567890123456789 1.5.2 1e5.0 1e5e5 1-2 text \xb2 "
    b"\xef\xbb\xbf1 \xd9\xa1 \x00 1\x00 \x1a \x0b \x0c 1\x0c2 \r"
).split(b" ") + [b"9" * 400, b"0." + b"3" * 400, b"0001-L", b"Training videos:"]
BLANKS = (b"", b" ", b"  ", b"\t", b" \t", b"\n", b" \n ", b"\r\n", b"\r", b"\n\n", b",", b", ")


def mutant(rng, content):
    """`content` with one to three random changes; `rng` is a `random.Random`."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(CHANGES)(rng, content)
    return content


def _flip_bit(rng, content):
    at = rng.randrange(len(content) + 1)
    flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in content[at : at + 1])
    return content[:at] + flipped + content[at + 1 :]


def _set_byte(rng, content):
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice((rng.randbytes(1), b"", b"0 ")) + content[at + 1 :]


def _cut(rng, content):
    return content[: rng.randrange(len(content) + 1)]


def _change_line(rng, content):
    lines = content.split(b"\n")
    # The first lines matter most, and there are few of them.
    at = rng.choice((rng.randrange(len(lines)), rng.randrange(min(len(lines), 4))))
    other = rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(
        ([], [lines[at]] * 2, [lines[at], b""], [lines[other]], [b" " + lines[at] + b" \t"])
    )
    return b"\n".join(lines)


def _change_word(rng, content):
    lines = content.split(b"\n")
    at = rng.choice((rng.randrange(len(lines)), rng.randrange(min(len(lines), 4))))
    separator = b"," if b"," in lines[at] else b" "
    words = lines[at].split(separator)
    i = rng.randrange(len(words))
    word = rng.choice(WORDS)
    words[i : i + 1] = rng.choice(([], [word], [word], [word], [words[i], word], [words[i]] * 2))
    lines[at] = separator.join(words)
    return b"\n".join(lines)


def _change_blank(rng, content):
    at = max(content.find(rng.choice((b" ", b"\n")), rng.randrange(len(content) + 1)), 0)
    return content[:at] + rng.choice(BLANKS) + content[at + 1 :]


CHANGES = (_flip_bit, _set_byte, _cut, _change_line, _change_word, _change_word, _change_blank)


def binary_mutant(rng, content):
    """`content` with one to three random changes that need no lines or words."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice((_flip_bit, _flip_bit, _set_byte, _cut, _move, _set_number))(
            rng, content
        )
    return content


def _move(rng, content):
    """Deletes, repeats or copies a few bytes."""
    at, size, place = (rng.randrange(n) for n in (len(content) + 1, 12, len(content) + 1))
    part = content[at : at + size]
    if rng.random() < 0.5:
        return content[:at] + content[at + size :]
    return content[:place] + part + content[place:]


def _set_number(rng, content):
    at, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), rng.randrange(2**size)))
    return content[:at] + number.to_bytes(size, "little") + content[at + size :]
