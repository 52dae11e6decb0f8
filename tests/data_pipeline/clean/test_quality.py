"""The published quality rules: each of them, at its threshold, and off."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.gopher_quality import GopherQuality
from data_pipeline.clean.ngrams import repeated_ngrams
from data_pipeline.clean.view import View
from tests.data_pipeline.clean.steps import clean, reason

PROSE = (
    "It was a quiet morning in the harbour, and the boats that had come in with the tide lay beside the long wall. "
    "Nobody spoke of the storm to be expected before night; the men mended nets, and children ran to the bakery. "
)
SENTENCES = """Late in spring the first swallows came back to the old barn above the river.
My grandmother had kept a record of their arrival for nearly forty years.
She wrote each date in pencil, with a short remark about weather and crops.
When she died we found the notebooks in a drawer that nobody had opened for long.
Some pages were torn, others carried recipes, debts and a few angry letters.
A student from the university asked whether he could copy all of it.
He discovered that birds return eleven days earlier than they used to.
Newspapers printed his graph, although few readers understood what it meant."""


def test_prose_passes_all_rules():
    for step in ("gopher_quality", "repetition", "fineweb"):
        assert reason(PROSE + SENTENCES, step) is None
    assert clean(SENTENCES, "c4") == SENTENCES


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        ("word " * 49, {}, "fewer than 50 words"),
        ("the word and " * 17, {}, None),
        ("the word and " * 17, {"max_words": 50}, "more than 50 words"),
        ("a b to of " * 20, {}, "words shorter than 3 characters on average"),
        (
            "incomprehensibilities and the " * 20,
            {"max_mean_word_length": 8},
            "words longer than 8 characters on average",
        ),
        ("the word and # " * 20, {}, "more than 0.1 hash signs a word"),
        ("the word and ... " * 20, {}, "more than 0.1 ellipses a word"),
        ("the word and… " * 20, {}, "more than 0.1 ellipses a word"),
        ("- the word and that\n" * 20, {}, "more than 0.9 of the lines start with a bullet"),
        ("- the word and that\n" * 18 + "the\n\n\n" * 2, {}, None),
        (
            "the word and that it was so long ago in the world\n" * 5 + "the words were long ago...\n" * 5,
            {"max_symbols_per_word": 1},
            "more than 0.3 of the lines end with an ellipsis",
        ),
        ("the word and 1984 " * 20, {}, "letters in less than 0.8 of the words"),
        ("the word and that 1984 " * 20, {}, None),
        ("the, word; and, that. " * 20, {}, "letters in less than 0.8 of the words"),
        ("the, word; and, that. " * 20, {"punctuation_counts": False}, None),
        ("the amount of 1,000,000.50 and everything that isn't " * 20, {"min_alphabetic_words": 8 / 9}, None),
        (
            "the amount of 1,000,000.50 and everything that isn't " * 20,
            {"min_alphabetic_words": 0.89},
            "letters in less than 0.89 of the words",
        ),
        (
            "the word and that...... and\n------\n~~~\n" * 10,
            {"max_symbols_per_word": 1, "min_alphabetic_words": 0.62},
            None,
        ),
        ("the word and that\n==\n" * 20, {}, "letters in less than 0.8 of the words"),
        ("the word - and | " * 20, {"punctuation_counts": False}, "letters in less than 0.8 of the words"),
        ("words other banded toe oft " * 20, {}, "fewer than 2 stop words"),
        ("words other the with toe " * 20, {}, None),
        ("parole altre il con dito " * 20, {"stop_words": ("il", "con")}, None),
    ],
)
def test_gopher_quality(text, told, expected):
    assert reason(text, "gopher_quality", **told) == expected


def test_gopher_rules_can_be_off():
    off = dict.fromkeys(set(GopherQuality.model_fields) - {"step", "languages", "punctuation_counts", "stop_words"})
    assert reason("- #...\n- 1", "gopher_quality", **off) is None


def test_words_of_one_character_are_no_short_words_where_words_have_no_spaces():
    text = "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。" * 3
    assert reason(text, "gopher_quality", min_stop_words=None) is None
    assert reason(text, "gopher_quality", stop_words=("有", "是")) is None
    assert (
        reason("a b c d " * 20, "gopher_quality", min_stop_words=None) == "words shorter than 3 characters on average"
    )


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        (
            "A line without an end\n" * 9 + "A line of some words with an end.\n",
            {},
            "less than 0.12 of the lines end with punctuation",
        ),
        (
            "A line of some words without an end\n" * 7 + "A line of some words with an end.\n",
            {"max_duplicate_line_characters": 1},
            None,
        ),
        ("这是一行比较长的文字，它的结尾有一个句号，所以它可以留下来，不会被去掉。", {}, None),
        (
            "Short line.\n" * 7 + SENTENCES[:140],
            {"max_duplicate_line_characters": 1},
            "more than 0.67 of the lines have at most 30 characters",
        ),
        (
            "Short line.\n" * 7 + SENTENCES[:140],
            {"max_duplicate_line_characters": 1, "short_line": 5, "max_newlines_per_word": 1},
            None,
        ),
        (SENTENCES + "\n" + SENTENCES, {}, "more than 0.01 of the characters are in duplicate lines"),
        (
            "Antidisestablishmentarianistically.\n\nIncomprehensibilitiesoftheworld.",
            {},
            "more than 0.3 line breaks a word",
        ),
        (
            "Words, with (some) marks: all of these count as well!\n\n\n\n" * 3,
            {"max_duplicate_line_characters": 1},
            None,
        ),
        (SENTENCES, {"stop_characters": "。"}, "less than 0.12 of the lines end with punctuation"),
    ],
)
def test_fineweb(text, told, expected):
    assert reason(text, "fineweb", **told) == expected


def test_c4_keeps_lines_that_are_sentences():
    page = (
        "Home | About\n"
        "  The first sentence is here.[1]  \n"
        "Too short.\n"
        'He asked: "Is the second one here?"\n'
        "This one goes on...\n"
        "Please turn on JavaScript to read this page.\n"
        "We use cookies to know what you read here.\n"
        f"A word of a thousand and one letters: {'x' * 1001}.\n"
        "The third line has two. They are both short! [citation needed]\n"
    )
    kept = (
        'The first sentence is here.\nHe asked: "Is the second one here?"\nThe third line has two. They are both short!'
    )
    assert clean(page, "c4", min_sentences=4) == kept
    assert reason(page, "c4") == "fewer than 5 sentences"
    loose = clean(
        page,
        "c4",
        min_sentences=None,
        end_marks=None,
        min_words_per_line=None,
        max_word_length=None,
        citations=False,
        javascript=False,
        policies=False,
    )
    assert loose == "\n".join(line.strip() for line in page.splitlines())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Now comes Lorem Ipsum dolor sit amet.", "a line with lorem ipsum"),
        ("Then the code was { return 1; } of it.", "a line with {"),
        ("a heading with { and lorem ipsum", None),
        ("This JavaScript is function() { return 1; } of it.", None),
        ("This JavaScript is lorem ipsum of it.", "a line with lorem ipsum"),
        ("The privacy policy is { return 1; } of it.", "a line with {"),
    ],
)
def test_c4_drops_documents_for_what_a_sentence_says(line, expected):
    assert reason(f"{SENTENCES}\n{line}", "c4") == expected
    assert reason(f"{SENTENCES}\n{line}", "c4", lorem_ipsum=False, curly_brackets=False) is None


@pytest.mark.parametrize(
    ("told", "text", "expected"),
    [
        ({"min_characters": 4}, "abc", "fewer than 4 characters"),
        ({"min_characters": 3, "max_characters": 3}, "abc", None),
        ({"max_characters": 2}, "abc", "more than 2 characters"),
        ({"min_units": 3}, "two words", "fewer than 3 units"),
        ({"min_units": 3}, "三个字", None),
        ({"max_units": 2}, "三个字", "more than 2 units"),
    ],
)
def test_length(told, text, expected):
    assert reason(text, "length", **told) == expected


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        ("abc 12", {}, "digits are more than 0.3 of the characters"),
        ("a .,-", {"max_symbols": None}, "letters are less than 0.5 of the characters"),
        ("abcde .,-+", {}, "punctuation and symbols are more than 0.4 of the characters"),
        ("床前明月光，疑是地上霜。", {}, None),
        ("नमस्ते दुनिया", {}, None),
        ("SHOUTING all", {"max_uppercase": 0.7}, "capitals are more than 0.7 of the letters"),
        ("SHOUTING all", {"max_uppercase": 0.75}, None),
        ("中文", {"max_uppercase": 0.0}, None),
    ],
)
def test_shares_of_characters(text, told, expected):
    assert reason(text, "characters", **told) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One line again.\n" * 5 + SENTENCES, "more than 0.3 of the lines are duplicates"),
        (f"{SENTENCES}\n\n{PROSE}\n\n{PROSE}", "more than 0.3 of the paragraphs are duplicates"),
        (
            f"{SENTENCES}\nx\ny\nz\nu\n\n{PROSE}\n\n{PROSE}\n\nv\n\nw",
            "more than 0.2 of the characters are in duplicate paragraphs",
        ),
        (f"{SENTENCES}\n{PROSE * 3}\n{PROSE * 3}", "more than 0.2 of the characters are in duplicate lines"),
        ("no way " * 10 + PROSE, "more than 0.2 of the characters are in one 2-gram"),
        (
            "alpha beta gamma one alpha beta gamma two alpha beta gamma three. " + PROSE[:130],
            "more than 0.18 of the characters are in one 3-gram",
        ),
        (PROSE + SENTENCES + PROSE[:105], "more than 0.1 of the characters are in duplicate 10-grams"),
        (PROSE[:30], None),
    ],
)
def test_repetition(text, expected):
    assert reason(text, "repetition") == expected


def top_share(words: list[str], n: int) -> int:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    gram, count = counts.most_common(1)[0] if counts else ((), 0)
    return count * len(" ".join(gram)) if count > 1 else 0


def again_share(text: str, spans: list[tuple[int, int]], n: int) -> int:
    seen, characters, place = set(), 0, 0
    while place + n <= len(spans):
        gram = tuple(text[start:end] for start, end in spans[place : place + n])
        if gram in seen:
            characters += spans[place + n - 1][1] - spans[place][0]
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d.", "ee,", "中", "f\n"]), max_size=60).map(" ".join))
def test_ngrams_are_counted_as_defined(text):
    view = View(text)
    spans = list(zip(*(places.tolist() for places in view.spans), strict=True))
    words = [text[start:end] for start, end in spans]
    repeated = {found.n: found for found in repeated_ngrams(view, 7)}
    for n in range(2, 8):
        places = list(range(len(words) - n + 1))
        counts = Counter(tuple(words[i : i + n]) for i in places)
        more = [i for i in places if counts[tuple(words[i : i + n])] > 1]
        assert more == (repeated[n].places.tolist() if n in repeated else [])
    for n in (2, 3, 5):
        assert rejected_from(text, "max_top_ngram", n, top_share(words, n))
        assert rejected_from(text, "max_duplicate_ngrams", n, again_share(text, spans, n))


def rejected_from(text: str, rule: str, n: int, characters: int) -> bool:
    """Whether the rule rejects below the share that these characters are, and not above it."""
    if not text.strip():
        return True
    off = {
        **dict.fromkeys(("max_duplicate_lines", "max_duplicate_paragraphs")),
        **dict.fromkeys(("max_duplicate_line_characters", "max_duplicate_paragraph_characters")),
        **{key: {} for key in ("max_top_ngram", "max_duplicate_ngrams")},
    }
    share = characters / len(text)
    below = reason(text, "repetition", **{**off, rule: {n: min(1.0, max(0.0, share - 1e-6))}})
    above = reason(text, "repetition", **{**off, rule: {n: min(1.0, share + 1e-6)}})
    return (below is not None) == (characters > 0) and (above is None or share > 1)
