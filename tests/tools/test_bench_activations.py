"""`bench activations`: the modes in their order, with the same loss."""

import json
import sys

import pytest

from launcher.cli.main import main
from tests.conftest import LLAMA


def test_the_table(tiny_run, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_run(model={**LLAMA, "num_hidden_layers": 6})
    command = ["megamodel", "bench", "activations", str(config), "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    output = capfd.readouterr()
    result = json.loads(output.out)
    assert output.err == ""
    assert [mode["settings"]["activation_checkpointing"] for mode in result["modes"]] == [
        "none",
        "selective",
        "every_nth",
        "full",
    ]
    kept = [mode["bytes"] for mode in result["modes"]]
    assert kept == sorted(kept, reverse=True) and kept[-1] < kept[0] / 4
    assert len({mode["loss"] for mode in result["modes"]}) == 1
    assert result["command"] == " ".join(command)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "every_nth, 2" in capfd.readouterr().out
