"""`bench context`: what ranks that share a long sequence hold, and that nobody holds the whole attention."""

import json
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from launcher.errors import UserError
from megamodel.layers.attention import causal_attention
from megamodel.parallel import block_attention
from megamodel.parallel.context import context_attention, tokens_of_rank
from tests.conftest import ROOT
from tests.ranks import in_ranks
from tools.bench.context import measure_context
from tools.bench.context_rank import Workload, watch

RANKS = 4
MASK_ELEMENTS = 2**16


def largest_in_rank(workload: Workload) -> int:
    def mine(seq_len: int) -> torch.Tensor:
        return tokens_of_rank(seq_len, RANKS, dist.get_rank(), workload.method)

    block_attention._MASK_ELEMENTS["cpu"] = MASK_ELEMENTS
    attend = context_attention(dist.group.WORLD, workload.method)
    return watch(workload, attend, torch.device("cpu"), mine)["largest_bytes"]


def no_rank_holds_the_whole(workload: Workload) -> None:
    own = 4 * workload.heads * workload.seq_len // RANKS * workload.head_size  # bytes of a rank's queries
    # Keys and values together; in Ulysses with the queries. A mask of documents is made a piece at a time.
    bound = (3 if workload.method == "ulysses" else 2) * own
    if workload.document_tokens:
        bound = max(bound, 4 * MASK_ELEMENTS)
    scores_of_one_head = 4 * workload.seq_len**2
    assert bound < scores_of_one_head / RANKS**2, "the bound excludes even the scores of a rank's own tokens"
    for largest in in_ranks(largest_in_rank, RANKS, workload):
        assert 0 < largest <= bound


@pytest.mark.parametrize("document_tokens", [0, 300])
@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_no_rank_holds_the_whole_attention(method: str, document_tokens: int) -> None:
    no_rank_holds_the_whole(Workload(method, RANKS, 4096, 4, 4, 8, document_tokens))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_no_rank_holds_the_whole_attention_of_32k_tokens(method: str) -> None:
    no_rank_holds_the_whole(Workload(method, RANKS, 32768, 4, 4, 16))


def test_a_whole_mask_would_have_been_seen() -> None:
    workload = Workload("ring", 1, 512, 4, 4, 8, 100)
    assert watch(workload, causal_attention, torch.device("cpu"), torch.arange)["largest_bytes"] >= 4 * 512**2


def test_the_command_measures_ranks_beside_one_process() -> None:
    options = ["--method", "ulysses", "--ranks", "2", "--seq-len", "512", "--kv-heads", "2", "--document-tokens", "60"]
    command = [sys.executable, "-m", "launcher", "bench", "context", *options, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["per_rank"]) == 2 and result["scores_bytes"] == 4 * 4 * 512**2
    for figures in (*result["per_rank"], result["alone"]):
        assert figures["peak_bytes"] > 0 and figures["seconds"] > 0 and figures["largest_bytes"] > 0
    assert 0 <= result["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        (Workload("ring", 4, 4097, 4, 4, 16), "--seq-len 4097 cannot be cut into the 8 pieces .*; take 4096"),
        (Workload("ring", 4, 4096, 4, 3, 16), "--heads 4 is not a multiple of --kv-heads 3"),
        (Workload("ulysses", 4, 4096, 6, 2, 16), "--heads 6 is not a multiple of --ranks 4"),
    ],
)
def test_numbers_that_do_not_go_together(workload: Workload, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        measure_context(workload)
