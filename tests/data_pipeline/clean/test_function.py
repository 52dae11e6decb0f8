"""Steps that users write."""

import pytest
from pydantic import ValidationError

from data_pipeline.clean import Cleaner, Rejected
from data_pipeline.errors import DataError
from tests.data_pipeline.clean.steps import document, settings

CODE = """
from dataclasses import dataclass, replace
from data_pipeline.clean import Rejected

@dataclass
class Helper:
    note: "str" = ""

def text(document): return document.text.upper()
def changed(document): return replace(document, text="new", language="xx")
def keep(document): return True
def none(document): return None
def false(document): return False
def reasoned(document): return Rejected("mine", "too blue")
def at_least(document, least=3): return len(document.text) >= least
def number(document): return 5
def bytes_in_it(document): return replace(document, text=b"x")
def fails(document): return document.text[100]
value = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "my_steps.py"
    path.write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return path


def run(reference: str, text: str = "abc", **arguments):
    return Cleaner([settings("function", function=reference, arguments=arguments)])(document(text))


def test_what_a_function_may_return(file):
    assert run(f"{file}:text") == document("ABC")
    assert run("my_steps.py:changed") == document("new", "xx")
    assert run("my_steps.py:keep") == document("abc")
    for name in ("none", "false"):
        assert run(f"{file}:{name}") == Rejected(f"{file}:{name}", "rejected")
    assert run("my_steps.py:reasoned") == Rejected("my_steps.py:reasoned", "too blue")
    assert run("my_steps.py:at_least", least=4) == Rejected("my_steps.py:at_least", "rejected")
    assert run("my_steps.py:at_least") == document("abc")


def test_a_module_is_found_where_the_command_runs(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent.parent))
    file.with_name("my_module_of_steps.py").write_text(CODE)
    assert run("my_module_of_steps:text") == document("ABC")


def test_a_function_that_fails_ends_the_run_in_one_sentence(file):
    with pytest.raises(DataError) as caught:
        run("my_steps.py:fails")
    assert str(caught.value) == (
        "the cleaning function my_steps.py:fails failed on document doc-7: IndexError: string index out of range."
    )


@pytest.mark.parametrize(("name", "what"), [("number", "int"), ("bytes_in_it", "a Document whose text is bytes")])
def test_a_result_of_another_kind_is_refused(file, name, what):
    with pytest.raises(DataError, match=f"my_steps.py:{name} returned {what} for document doc-7; it must return a"):
        run(f"my_steps.py:{name}")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.py:f", "cannot load the cleaning function nowhere.py:f: FileNotFoundError"),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("my_steps.py:absent", "AttributeError"),
        ("my_steps.py:value", "my_steps.py:value is no function, but int"),
        ("broken.py:f", "cannot load .* SyntaxError"),
        ("leaves.py:f", "cannot load .* SystemExit"),
    ],
)
def test_a_function_that_is_not_there(file, reference, said):
    file.with_name("broken.py").write_text("def f(:")
    file.with_name("leaves.py").write_text("raise SystemExit(1)")
    with pytest.raises(DataError, match=said):
        run(reference)


@pytest.mark.parametrize("reference", ["name", "a.py:", ":f", "a.py:1f", "a.py:f()"])
def test_a_name_that_cannot_be_one(reference):
    with pytest.raises(ValidationError):
        settings("function", function=reference)


def test_the_fingerprint_follows_the_code(file):
    step = settings("function", function="my_steps.py:text")
    before = step.fingerprint()
    assert before == step.fingerprint()
    file.write_text(CODE.replace("upper", "lower"))
    assert step.fingerprint() != before
