"""Steps that users write."""

import pytest
from pydantic import ValidationError

from data_pipeline.clean import Cleaner, Rejected
from data_pipeline.clean.dry_run import dry_run
from data_pipeline.errors import DataError
from tests.data_pipeline.clean.steps import document, settings

CODE = r"""
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
def text_none(document): return replace(document, text=None)
def half_text(document): return document.text + "\ud800"
def half_in_it(document): return replace(document, text="\udfff")
def source(document): return replace(document, source="elsewhere")
def position(document): return replace(document, position=8)
def offset(document): return replace(document, offset=1)
def id(document): return replace(document, id="doc-8")
def language(document): return replace(document, language=3)
def half_language(document): return replace(document, language="\ud800")
def half_reason(document): return Rejected("mine", "\ud800")
def no_reason(document): return Rejected("mine", 3)
def long_reason(document): return Rejected("mine", "é" * 1000)
def mutates(document): document.text = "mutated"; document.id = "other"; return True
def mutated(document): document.text = "mutated"; document.language = "yy"; return document
def prints(document): print("seen", document.id); return True
def leaves(document): raise SystemExit(3)
def shouts(document): raise ValueError("\ud800" * 10_000)
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


@pytest.mark.parametrize(
    ("name", "what", "instead"),
    [
        ("number", "int", "it must return a Document, a text, True, None, False or Rejected"),
        ("bytes_in_it", "a Document whose text is bytes", "it must return a text that is a str"),
        ("text_none", "a Document whose text is NoneType", "it must return a text that is a str"),
        ("half_text", r"a Document whose text has half a surrogate pair \(U\+D800 at character 3\)", "no file can"),
        ("half_in_it", r"a Document whose text has half a surrogate pair \(U\+DFFF at character 0\)", "no file can"),
        ("source", "a Document with another source", "only text and language may change"),
        ("position", "a Document with another position", "only text and language may change"),
        ("offset", "a Document with another offset", "only text and language may change"),
        ("id", "a Document with another id", "only text and language may change"),
        ("language", "a Document whose language is int", "it must return a language that is a str"),
        ("half_language", "a Document whose language has half a surrogate pair", "no file can"),
        ("half_reason", "a Rejected whose reason has half a surrogate pair", "no file can"),
        ("no_reason", "a Rejected whose reason is int", "it must return a reason that is a str"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused_at_once(file, name, what, instead):
    said = f"the cleaning function my_steps.py:{name} returned {what}.* for document doc-7; {instead}"
    with pytest.raises(DataError, match=said):
        run(f"my_steps.py:{name}")
    with pytest.raises(DataError, match=said):  # what a sample shows
        dry_run([settings("function", function=f"my_steps.py:{name}")], [document("abc")])


def test_a_reason_has_an_end(file):
    assert run("my_steps.py:long_reason") == Rejected("my_steps.py:long_reason", "é" * 100)


def test_a_function_gets_a_document_of_its_own(file):
    given = document("abc")
    step = Cleaner([settings("function", function="my_steps.py:mutates")])
    assert step(given) is given
    assert given == document("abc")
    assert run("my_steps.py:mutated") == document("mutated", "yy")


def test_what_a_function_prints_is_no_output(file, capsys):
    file.with_name("loud.py").write_text("print('loaded')\n" + CODE)
    assert run("loud.py:prints") == document("abc")
    assert capsys.readouterr() == ("", "loaded\nseen doc-7\n")


@pytest.mark.parametrize(("name", "said"), [("leaves", "SystemExit: 3"), ("shouts", "ValueError: .ud800")])
def test_no_way_of_failing_gets_past(file, name, said):
    with pytest.raises(DataError, match=f"my_steps.py:{name} failed on document doc-7: {said}") as caught:
        run(f"my_steps.py:{name}")
    assert len(str(caught.value).encode()) < 5000


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
