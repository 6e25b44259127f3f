from art_jax.cli.progress import make_progress


def test_progress_says_how_long_is_left():
    times = iter([0.0, 20.0, 22.0, 30.0, 40.0])
    lines = []
    progress = make_progress("reranked", 8, lines.append, clock=lambda: next(times))
    for done in (1, 2, 3, 8):
        progress(done)
    assert lines == [
        "reranked 1/8 questions",
        "reranked 3/8 questions  ETA 0:25",
        "reranked 8 questions in 40.0 s",
    ]
