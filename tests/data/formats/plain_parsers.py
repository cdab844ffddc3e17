"""Line-by-line parsers of each raw format in plain Python, as a reference for the package's.

Nothing here is shared with `pcm3_jax.data.formats`. Each function returns the content or raises
`Flaw`.
"""

import re

import numpy as np

DIGITS = set("0123456789")


class Flaw(Exception):
    """`line`: the first invalid one; None if the file as a whole is invalid."""

    def __init__(self, line):
        super().__init__(line)
        self.line = line


def plain_skeleton(content):
    """A `.skeleton` file as ((T, S, 25, 3) float32, most bodies in a frame)."""
    lines = [(number, words) for number, words in words_of_lines(content) if words]
    position = 0

    def following():
        nonlocal position
        if position == len(lines):
            raise Flaw(lines[-1][0] if lines else None)
        position += 1
        return lines[position - 1]

    def following_count():
        number, words = following()
        if len(words) != 1 or not is_count(words[0]):
            raise Flaw(number)
        return number, int(words[0])

    def following_numbers(length):
        number, words = following()
        if len(words) != length or not all(is_number(word) for word in words):
            raise Flaw(number)
        return number, words

    number, num_frames = following_count()
    if num_frames == 0:
        raise Flaw(number)
    frames = []
    while len(frames) < num_frames:
        _, num_bodies = following_count()
        bodies = []
        while len(bodies) < num_bodies:
            following_numbers(10)
            number, num_joints = following_count()
            if num_joints != 25:
                raise Flaw(number)
            joints = []
            for _ in range(25):
                number, words = following_numbers(12)
                joints.append([to_float32(word, number) for word in words[:3]])
            bodies.append(joints)
        frames.append(bodies)
    if position < len(lines):
        raise Flaw(lines[position][0])
    most = max(len(bodies) for bodies in frames)
    if most == 0:
        raise Flaw(None)
    skeleton = np.zeros((num_frames, min(most, 4), 25, 3), np.float32)
    for t, bodies in enumerate(frames):
        for slot, joints in enumerate(bodies[:4]):
            skeleton[t, slot] = joints
    return skeleton, most


def plain_video(content):
    """A PKU-MMD skeleton file as (T, 1 or 2, 25, 3) float32."""
    rows = plain_rows(content, (75, 150))
    return rows.reshape(len(rows), -1, 25, 3)


def plain_rows(content, widths):
    """Rows of numbers between blanks or commas, as many in each as in the first, as float32."""
    rows = []
    for number, words in without_blank_end(content):
        text = " ".join(words)
        words = [word.strip(" ") for word in text.split(",")] if "," in text else words
        if len(words) not in (widths if not rows else (len(rows[0]),)):
            raise Flaw(number)
        if not all(is_number(word) for word in words):
            raise Flaw(number)
        rows.append([to_float32(word, number) for word in words])
    return np.array(rows, np.float32)


def plain_labels(content, num_frames):
    """A PKU-MMD label file: usable rows, and the lines of flawed, unusable and mended ones.

    A row is (0-based action, start, stop, confidence, 0-based row).
    """
    rows, flawed, unusable, mended = [], [], [], []
    lines = [(number, words) for number, words in words_of_lines(content) if words]
    if not lines:
        raise Flaw(None)
    for number, words in lines:
        fields = [field.strip(" ") for field in " ".join(words).split(",")]
        if len(fields) != 4 or not all(is_count(field) for field in fields):
            flawed.append(number)
            continue
        action, start, stop, confidence = map(int, fields)
        if action < 1 or action > 51 or start >= stop or start >= num_frames:
            unusable.append(number)
            continue
        if stop > num_frames:
            mended.append(number)
        if rows and start < rows[-1][1]:
            mended.append(number)
        rows.append((action - 1, start, min(stop, num_frames), confidence, number - 1))
    return sorted(rows, key=lambda row: row[1]), flawed, unusable, mended


def plain_split(content):
    """A PKU-MMD split file as {"train": names, "test": names}."""
    split = {"train": [], "test": []}
    for i, (number, words) in enumerate(without_blank_end(content)):
        text = " ".join(words)
        if i == 0 and text == "Training videos:":
            continue
        if i == 2 and text in ("Validataion videos:", "Validation videos:"):
            continue
        names = text.replace(",", " ").split(" ")
        names = [name for name in names if name]
        known = split["train"] + split["test"]
        if (
            i not in (1, 3)
            or not words
            or not names
            or len(set(known + names)) < len(known + names)
        ):
            raise Flaw(number)
        if any(re.search("[^0-9A-Za-z_-]", name) for name in names):
            raise Flaw(number)
        split["train" if i == 1 else "test"] = names
    if i < 3:
        raise Flaw(number)
    return split


def words_of_lines(content):
    """(1-based number, words) of every line, after a byte order mark if there is one.

    CR belongs to the line end, only right before LF.
    """
    text = content[3:] if content.startswith(b"\xef\xbb\xbf") else content
    for number, line in enumerate(text.decode("latin-1").split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        line = line.strip(" \t")
        yield number, re.split("[ \t]+", line) if line else []


def without_blank_end(content):
    """`words_of_lines` without blank lines at the end; raises Flaw for others and for no lines."""
    lines = list(words_of_lines(content))
    while lines and not lines[-1][1]:
        del lines[-1]
    if not lines:
        raise Flaw(None)
    for number, words in lines:
        if not words:
            raise Flaw(number)
        yield number, words


def is_digits(text):
    return text != "" and set(text) <= DIGITS


def is_count(word):
    return is_digits(word) and len(word) < 10


def is_number(word):
    """Whether the word is [+-]digits[.digits][e[+-]digits]."""
    mantissa, has_exponent, exponent = word.replace("E", "e").partition("e")
    whole, has_point, fraction = mantissa.partition(".")
    return (
        is_digits(unsigned(whole))
        and (not has_point or is_digits(fraction))
        and (not has_exponent or is_digits(unsigned(exponent)))
    )


def unsigned(text):
    return text[1:] if text[:1] in ("+", "-") else text


def to_float32(word, line):
    with np.errstate(over="ignore"):
        value = np.float32(float(word))
    if not np.isfinite(value):
        raise Flaw(line)
    return value
