import pytest


@pytest.mark.parametrize("verb", ["build", "embed", "ann"])
def test_examples_are_taken(check_verb, verb):
    assert check_verb(verb)[0].module == verb
