import pytest


@pytest.mark.parametrize(
    ("verb", "module"),
    [("import", "import_weights"), ("export", "export"), ("verify", "verify")],
)
def test_examples_are_taken(check_verb, verb, module):
    assert check_verb(verb)[0].module == module


@pytest.mark.parametrize("action", ["check", "convert", "answer-sets"])
def test_actions_of_data_are_taken(check_verb, action):
    options = check_verb(f"data {action}")[0]
    assert (options.module, options.action) == ("data", action)
