import pytest


@pytest.mark.parametrize("verb", ["search", "evaluate", "rerank", "read"])
def test_examples_are_taken(check_verb, verb):
    assert check_verb(verb)[0].module == verb


def test_what_is_not_asked_for_is_the_methods_to_say(check_verb):
    options = check_verb("rerank")[0]
    assert (options.method, options.k, options.depth) == ("upr", 1000, None)
