def test_a_good_file_is_described(art_jax, corpus):
    code, out, err = art_jax("data", "check", corpus / "p.tsv")
    assert (code, err) == (0, "")
    assert "30" in out


def test_a_bad_file_ends_in_3_with_its_problems_listed(art_jax, tmp_path):
    path = tmp_path / "p.tsv"
    path.write_bytes(b"id\ttext\ttitle\n1\tsome text\ta\n1\tmore text\tb\n2\t\tc\n")
    code, out, err = art_jax("data", "check", path)
    assert code == 3
    assert f"{path}:3" in out or "3" in out
    assert f"art-jax: error: {path}: 2 problems would stop a reader" in err


def test_a_file_that_is_not_there_ends_in_3(art_jax, tmp_path):
    code, _, err = art_jax("data", "check", tmp_path / "nowhere.tsv")
    assert code == 3
    assert "nowhere.tsv" in err
