"""Generation: the tokens that no cache gives and that transformers gives; sampling by the book; whole characters."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_pipeline.tokenizer import Tokenizer
from launcher.cli.main import main
from launcher.errors import UserError
from tools.convert.export import Exported
from tools.convert.source import open_source
from tools.generate.decode import TextStream, continue_ids
from tools.generate.generate import generate
from tools.generate.sampling import Sampling, choose, probabilities

Trained = Callable[[str], Path]
GREEDY = Sampling(greedy=True)
PROMPT = "went to sea in"
NO_TOKEN = -1


def without_cache(model, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ["llama-untied", "gpt2"])
def test_greedy_equals_no_cache_and_transformers(
    name: str, trained: Trained, exported: Callable[[str], Exported]
) -> None:
    from transformers import AutoModelForCausalLM

    out = exported(name).out
    ours = generate(trained(name), PROMPT, 40, GREEDY, seed=0)
    assert generate(out, PROMPT, 40, GREEDY, seed=0).ids == ours.ids
    assert len(ours.ids) == 40 and len(set(ours.ids)) > 10, "long and varied enough to mean something"
    assert ours.ids == without_cache(open_source(trained(name)).build(), ours.prompt_ids, 40)
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    prompt = torch.tensor([ours.prompt_ids])
    continuation = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False)
    assert continuation[0, prompt.shape[1] :].tolist() == ours.ids


def test_an_end_of_document_token_is_the_last(trained: Trained) -> None:
    model = open_source(trained("gpt2")).build()
    free = list(continue_ids(model, [5, 6, 7], 20, GREEDY, 0, eos_id=NO_TOKEN))
    eos = free[4]
    first = free.index(eos)
    assert list(continue_ids(model, [5, 6, 7], 20, GREEDY, 0, eos_id=eos)) == free[: first + 1]


def test_a_seed_gives_the_same_text(trained: Trained) -> None:
    def text(seed: int) -> list[int]:
        return generate(trained("gpt2"), PROMPT, 30, Sampling(temperature=1.5), seed).ids

    assert text(1) == text(1) != text(2)


def test_pieces_make_up_the_text(trained: Trained) -> None:
    pieces: list[str] = []
    done = generate(trained("gpt2"), PROMPT, 30, GREEDY, 0, on_text=pieces.append)
    assert "".join(pieces) == done.text and len(pieces) > 10


def test_an_empty_prompt_begins_a_document(trained: Trained) -> None:
    assert generate(trained("gpt2"), "", 3, GREEDY, 0).prompt_ids == [0]


@pytest.mark.parametrize("tokens", [10**12, 10**30])
def test_no_memory_for_so_many_tokens_is_told(tokens: int, trained: Trained) -> None:
    with pytest.raises(UserError, match="lower --max-new-tokens"):
        generate(trained("llama-untied"), PROMPT, tokens, GREEDY, 0)


def test_learned_positions_end_and_rotary_ones_are_noted(trained: Trained) -> None:
    with pytest.raises(UserError, match=r"more than the model's 64 positions; at most \d+ new ones fit"):
        generate(trained("gpt2"), PROMPT, 100, GREEDY, 0)
    done = generate(trained("llama-untied"), PROMPT, 70, GREEDY, 0)
    assert len(done.notes) == 1 and "64 positions" in done.notes[0]


LOGITS = torch.tensor([1.0, 3.0, 0.0, 2.0]).log()  # with weight 0 the third can never be drawn


def test_probabilities_by_the_book() -> None:
    def close(sampling: Sampling, *expected: float) -> None:
        torch.testing.assert_close(probabilities(LOGITS, sampling), torch.tensor(expected, dtype=torch.float32))

    close(Sampling(), 1 / 6, 1 / 2, 0, 1 / 3)
    close(Sampling(temperature=0.5), 1 / 14, 9 / 14, 0, 4 / 14)
    close(Sampling(top_k=2), 0, 3 / 5, 0, 2 / 5)
    close(Sampling(top_k=99), 1 / 6, 1 / 2, 0, 1 / 3)
    close(Sampling(top_p=0.4), 0, 1, 0, 0)
    close(Sampling(top_p=0.6), 0, 3 / 5, 0, 2 / 5)
    close(Sampling(top_p=1.0), 1 / 6, 1 / 2, 0, 1 / 3)
    # Of the two that top-k leaves, the first has 3/5: enough for 0.55 only because top-k comes first.
    close(Sampling(top_k=2, top_p=0.55), 0, 1, 0, 0)
    # At temperature 1/2 it has 9/14, enough for 0.6 only because the temperature comes first.
    close(Sampling(temperature=0.5, top_p=0.6), 0, 1, 0, 0)
    for tiny in (1e-40, 1e-320):
        close(Sampling(temperature=tiny), 0, 1, 0, 0)


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose(LOGITS, Sampling(), generator) for _ in range(3000)])
    shares = torch.bincount(draws, minlength=4) / 3000
    torch.testing.assert_close(shares, torch.tensor([1 / 6, 1 / 2, 0, 1 / 3]), atol=0.04, rtol=0)
    assert choose(LOGITS, GREEDY, generator) == 1


def test_characters_come_whole(tiny_data: Path) -> None:
    tokenizer = Tokenizer.load(tiny_data / "tokenizer")
    text = "word 床前明月光 🎉 naïve"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode_batch([text])[0].tolist()]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_text_do_not_hold_it_up(tiny_data: Path) -> None:
    tokenizer = Tokenizer.load(tiny_data / "tokenizer")
    continuation_byte = tokenizer.encode_batch(["床"])[0].tolist()[-1]
    stream = TextStream(tokenizer)
    pieces = [stream.push(continuation_byte) for _ in range(8)]
    assert "\ufffd" in "".join(pieces)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["megamodel", "generate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


def test_command(trained: Trained, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    call = [str(trained("gpt2")), "--prompt", PROMPT, "--max-new-tokens", "10", "--greedy"]
    assert command(monkeypatch, *call, "--json") == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["prompt"] == PROMPT and len(answer["ids"]) == 10 and answer["stopped_by"] == "length"
    assert command(monkeypatch, *call) == 0
    assert capfd.readouterr().out == answer["text"] + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--temperature", "0.5"], "--greedy always takes the likeliest token"),
        (["--greedy", "--top-k", "5"], "--greedy always takes the likeliest token"),
        (["--temperature", "0"], "--temperature is 0.0, it must be above 0"),
        (["--top-k", "0"], "--top-k is 0"),
        (["--top-p", "1.5"], "--top-p is 1.5"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
    ],
)
def test_mistakes_are_told(
    options: list[str], message: str, trained: Trained, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    assert command(monkeypatch, str(trained("gpt2")), "--prompt", PROMPT, *options) == 2
    assert message in " ".join(capfd.readouterr().err.split())
