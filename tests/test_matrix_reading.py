"""A matrix read from TOML with overrides: what blocks inherit, and every mistake in one line."""

from __future__ import annotations

import pytest
from planted_plugins import installed  # noqa: F401

from robustbench_gan.base.errors import UsageError
from robustbench_gan.engine import matrix
from robustbench_gan.engine.matrix import Matrix, read_matrix, read_matrix_file
from robustbench_gan.nouns.spec import Spec


def read(text, **overrides):
    return read_matrix(text, "m.toml", overrides)


def test_an_empty_matrix_is_its_defaults():
    assert read("") == Matrix()
    assert list(read("").blocks()) == [matrix.Block()]


def test_blocks_inherit_what_they_do_not_say():
    asked = read('eps=[0.1]\nsamples=7\n[[block]]\nattacks=["pgd"]\n[[block]]\nsamples=9\n')
    one, two = asked.blocks()
    assert (one.attacks, one.samples, one.eps) == ([Spec("pgd")], 7, [0.1])
    assert (two.attacks, two.samples, two.eps) == ([Spec("fgsm")], 9, [0.1])


def test_a_block_cannot_have_a_training_seed_of_its_own():
    # One workshop trains for all blocks: a record would name a seed that its weights do not have.
    with pytest.raises(
        UsageError, match="train_seed = 2 in a block: a matrix has one for all of its trainings, 1"
    ):
        read("train_seed=1\n[[block]]\ntrain_seed=2")
    assert [b.train_seed for b in read("train_seed=1\n[[block]]\ntrain_seed=1\n[[block]]").blocks()] == [1, 1]


def test_options_go_before_the_file_and_before_its_blocks():
    asked = read('samples=7\n[[block]]\nsamples=9\nattacks=["pgd"]', samples=3, attacks=["bim"])
    assert [(b.samples, b.attacks) for b in asked.blocks()] == [(3, [Spec("bim")])]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("samples = true", ["m.toml: samples", "True"]),
        ("judge_seeds = 1000000000", ["m.toml: judge_seeds = 1000000000"]),
        ("samples = = 3", ["m.toml is not valid TOML", "line 1"]),
        ('eps = [0.1]\n\nattacks = ["fgsm"', ["m.toml is not valid TOML", "line 3, where the file ends"]),
        ('attakcs = ["fgsm"]', ["unknown key in m.toml", "'attakcs'", "Did you mean 'attacks'?"]),
        ('[[block]]\nsample = 3', ["'sample'", "Did you mean 'samples'?"]),
        ('samples = "many"', ["m.toml", "samples", "'many'"]),
        ("samples = 1.5", ["samples"]),
        ("attacks = []", ["attacks", "at least 1"]),
        ('attacks = "fgsm"', ["attacks", "list"]),
        ("eps = 0.3", ["eps", "list"]),
        ('eps = ["a"]', ["eps.0", "'a'"]),
        ("judge_seeds = 0", ["judge_seeds", "greater than or equal to 1"]),
        ("eot = 0", ["eot"]),
        ("max_cell_minutes = 0", ["max_cell_minutes"]),
        ("[block]\nsamples = 3", ["block"]),
        ("block = [3]", ["block"]),
        ("[[block]]\nblock = []", ["unknown key in m.toml", "'block'"]),
    ],
)  # fmt: skip
def test_a_bad_matrix_is_one_line_that_shows_the_place(text, says):
    for overrides in ({}, {"goals": ["random"]}):
        with pytest.raises(UsageError) as error:
            read(text, **overrides)
        for part in says:
            assert part in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "m.toml"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read .*m\.toml"):
        read_matrix_file(path, {})
