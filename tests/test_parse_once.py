"""A spec is read once, at a door, and is from there on the value that it names; its text never changes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_record import CELL

import robustbench_gan
from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.spec import UNDEFENDED, Chain, FileReference, Spec, classifier_of

CORE = Path(robustbench_gan.__file__).parent
DOORS = {
    "nouns/spec": "where they are read",
    "nouns/record": "records",
    "contracts/threat": "a substitute's model, a text among the parameters of a threat model",
    "engine/matrix": "TOML and options",
    "engine/points": "values of --over",
    "engine/train": "what `rbg train` is to train",
    "cli/audit": "options",
    "cli/evaluate": "options",
    "cli/sweep": "options",
    "training/orders": "what a workshop is asked for in code",
    "training/workshop": "what a workshop is asked for in code",
    "api/given": "what run_attack is given",
    "testing": "what is to be checked",
    "audit/system": "the cells that a check asks for",
    "audit/self_test": "controls, as they are written down",
    "audit/label_leaking": "the attack of adversarial training, a text among its parameters",
}
CUT = {"base/machine", "nouns/fields", "nouns/spec"}  # which cut other texts at a colon or a plus
READERS = {"Spec", "Chain", "FileReference", "AsText"}


def readers(tree: ast.AST) -> set[str]:
    """`reads` where a spec is read from text, `cuts` where a text is cut at a colon or a plus."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("parse", "of"):
            found |= {"reads"} if isinstance(node.value, ast.Name) and node.value.id in READERS else set()
        if isinstance(node, ast.Name) and node.id in ("classifier_of", "names_of"):
            found.add("reads")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if node.func.attr in ("partition", "rpartition", "split", "rsplit") and {":", "+"} & set(given):
                found.add("cuts")
    return found


def test_specs_are_read_at_the_doors_alone():
    modules = {
        str(path.relative_to(CORE).with_suffix("")): readers(ast.parse(path.read_text()))
        for path in sorted(CORE.rglob("*.py"))
    }
    assert {name for name, found in modules.items() if "reads" in found} == set(DOORS)
    assert {name for name, found in modules.items() if "cuts" in found} == CUT
    assert readers(ast.parse('x = map(Spec.of, y); "a:b".split(":", 1)')) == {"reads", "cuts"}


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "pgd:steps=7,step=0.10"},  # not as we would write it
        {"attack": "pgd( steps=7 )"},
        {"defense": "noisy + none"},
        {"defense": "a:path='x+y'+b:step=1e+16"},
        {"threat": "gray-box:copy=True,draws=3"},
        {"threat": "black-box:model='b:dropout=keep',reference='noisy+none'"},
        {"classifier": "mine.py:make@3fa9c2d1"},
        {"classifier": "my model.py:make@3fa9c2d1"},
        {"dataset": "mnist@3fa9c2d1:size=28"},
    ],
    ids=str,
)
def test_a_cell_is_written_to_the_letter_as_it_was_read(change):
    cell = Cell(**{**CELL, **change})
    written = {"goal": "untargeted", **CELL, **change}
    assert json.loads(cell.model_dump_json()) == cell.model_dump() == written
    assert Cell.model_validate_json(cell.model_dump_json()) == cell
    (name,) = change
    assert isinstance(getattr(cell, name), Spec | Chain | FileReference)
    assert Cell(**{**CELL, name: getattr(cell, name)}).fingerprint == cell.fingerprint


@pytest.mark.parametrize("text", ["pgd:steps=", "a:b:(", "", "pgd:steps=((", 5, None, ["pgd"], "x" * 20_000])
@pytest.mark.parametrize("name", ["attack", "dataset", "classifier", "defense", "threat"])
def test_a_record_of_what_is_no_spec_is_refused(name, text):
    with pytest.raises(ValidationError, match=rf"(?s){name}.*(cannot read|expected a text)"):
        Cell(**{**CELL, name: text})


def test_specs_are_equal_and_sorted_as_their_texts():
    one, whole, yes = (Spec("a", (("k", value),)) for value in (1, 1.0, True))
    assert len({one, whole, yes}) == 3 and (1, "x") == (1.0, "x")
    assert one == Spec.parse("a: k = 1") != Spec.of("a: k = 1") and str(Spec.of("a: k = 1")) == "a: k = 1"
    assert Spec.of("a: k = 1").canonical == "a:k=1" and Spec.of(one) is one
    assert Chain.of("none") == UNDEFENDED != Spec("none") and Chain.of("b:x=1+a").name == "b+a"
    own = classifier_of("a.py:make")
    assert own == FileReference(Path("a.py"), "make") and sorted([Spec("b"), own, Spec("a")])[1] is own
    assert one.replaced({"j": "y"}) == Spec.parse("a:j=y,k=1") and one.get("k") == 1 and one.get("j", 2) == 2


def test_a_file_without_its_factory_is_told_what_is_missing():
    with pytest.raises(UsageError, match=r"a/model\.py: add the function .* as in a/model\.py:factory"):
        classifier_of("a/model.py")
