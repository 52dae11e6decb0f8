"""Training is deterministic, transformers reads the folder, special tokens in a text stay text."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["Call me Ishmael. <|endoftext|> is only text.", "子曰：“学而时习之，不亦说乎？”", " \n\t\x00 é 🐳 ﷽"]


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=200))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str):
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_byte_lengths()[ids].sum() == len(text.encode())


def test_a_special_token_in_a_text_stays_text(tokenizer: Tokenizer):
    (ids,) = tokenizer.encode_batch(["before<|endoftext|>after"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "before<|endoftext|>after"
    assert tokenizer.token_byte_lengths()[tokenizer.eos_id] == 0


def test_transformers_reads_the_folder(tokenizer: Tokenizer, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == tokenizer.eos_id
    assert theirs.model_max_length == 2048
    assert len(theirs) == tokenizer.vocab_size == 600
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids.tolist()
        assert theirs.decode(ids) == text


def test_the_same_texts_give_the_same_bytes_on_any_number_of_cores(corpus: Path, tokenizer: Tokenizer):
    code = (
        "import sys; from data_pipeline.execute import train_tokenizer_on;"
        "print(train_tokenizer_on([sys.argv[1]], 600).digest)"
    )
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", code, str(corpus)], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == tokenizer.digest


def test_the_byte_table_of_a_tokenizer_that_is_not_byte_level():
    import tokenizers

    model = tokenizers.models.BPE({"<s>": 0, "▁": 1, "ab": 2, "<0xE4>": 3, "é": 4, "</s>": 5}, [], byte_fallback=True)
    other = tokenizers.Tokenizer(model)
    other.add_special_tokens(["<s>", "</s>"])
    loaded = Tokenizer(other.to_str().encode(), {"eos_token": {"content": "</s>"}})
    assert loaded.eos_id == 5
    np.testing.assert_array_equal(loaded.token_byte_lengths(), [0, 1, 2, 1, 2, 0])


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer at"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "cannot read tokenizer_config.json"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": '), "damaged"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{}"), "eos_token"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[" * 10**5), "config.json is damaged"),
        (lambda folder: (folder / "tokenizer_config.json").write_text(r'{"x": "\ud800"}'), "config.json is damaged"),
    ],
)
def test_a_damaged_folder_is_said_so(tokenizer: Tokenizer, tmp_path: Path, damage, part: str):
    tokenizer.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=part) as error:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(DataError, match="257"):
        train_tokenizer(TEXTS, 256)
