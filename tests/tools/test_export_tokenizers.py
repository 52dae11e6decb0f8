"""An export's tokenizer gives transformers the ids that the model was trained on, whatever kind it is."""

import json
from pathlib import Path

import pytest
import torch

from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from launcher.errors import UserError
from megamodel.config import ModelConfig
from tests.conftest import LLAMA
from tests.data_pipeline.hostile import hostile_texts
from tests.data_pipeline.trained import KINDS, sample_texts
from tools.convert.export import export_hf
from tools.convert.hf_write import write_hf
from tools.convert.probe import make_probe
from tools.convert.source import Source


def first_export(tokenizer: Tokenizer, folder: Path) -> Path:
    """A folder as transformers reads it, with a random model over this vocabulary."""
    tokenizer.save(folder / "tokenizer")
    config = ModelConfig.model_validate(LLAMA | {"vocab_size": tokenizer.vocab_size})
    random = make_probe(Source("random", config, {}, folder / "tokenizer"), config, torch.float32)
    (folder / "first").mkdir()
    write_hf(folder / "first", random.config, random.weights, random.tokenizer)
    return folder / "first"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_transformers_gives_the_ids_of_each_kind(kind, tmp_path: Path):
    """byte_bpe, the first kind, is what test_export.py exports."""
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer(sample_texts(30, 5), 600, model=kind)
    done = export_hf(first_export(tokenizer, tmp_path), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(done.out)
    assert theirs.eos_token_id == tokenizer.eos_id and len(theirs) == tokenizer.vocab_size
    texts = sample_texts(60, 20) if kind == "sentencepiece_unigram" else [*sample_texts(10, 10), *hostile_texts(500)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids.tolist(), text
    exact = kind != "sentencepiece_unigram"
    assert any("tokenizer.model, which is exact" in note for note in done.notes) != exact
    assert Tokenizer.load(done.out).digest == tokenizer.digest


def test_a_model_that_tokenizer_json_cannot_express_is_refused(tmp_path: Path):
    import sentencepiece

    lines = [line for text in sample_texts(30, 0) for line in text.split("\n")]
    kinds = {"words or characters": {"model_type": "char"}, "other ids than": {"treat_whitespace_as_suffix": True}}
    for number, (reason, more) in enumerate(kinds.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(folder / "m"), vocab_size=400, minloglevel=2,
            hard_vocab_limit=False, num_threads=1, **more,
        )  # fmt: skip
        tokenizer = Tokenizer.load(folder / "m.model")
        assert tokenizer.decode(tokenizer.encode_batch(["some text"])[0]).strip() == "some text"
        with pytest.raises(UserError, match=reason):
            export_hf(first_export(tokenizer, folder), folder / "out")


def test_a_published_folder_keeps_what_else_it_says(tmp_path: Path):
    tokenizer = train_tokenizer(sample_texts(5, 0), 400)
    tokenizer.save(tmp_path / "theirs")
    file = tmp_path / "theirs" / "tokenizer_config.json"
    file.write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}, "chat_template": "{{x}}"}))
    folder = first_export(Tokenizer.load(tmp_path / "theirs"), tmp_path)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["chat_template"] == "{{x}}" and written["tokenizer_class"] == "PreTrainedTokenizerFast"
