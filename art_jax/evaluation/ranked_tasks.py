"""Rankings at hand, measured by SeqIO's evaluator as a task of their own.

Imports TensorFlow.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from art_jax.data import preprocessors, sources, vocabularies
from art_jax.data.examples import RankedQuestion
from art_jax.data.host_tensorflow import seqio
from art_jax.data.tokenizers import WORDPIECE_SPECIALS, WordPieceTokenizer
from art_jax.errors import DataError
from art_jax.evaluation import candidates, evaluator

_SPLIT = "test"
_TOKENS = 3  # The fewest that a layout takes.
# A task tokenises its questions; of rankings nobody reads the tokens.
_NO_WORDS = WordPieceTokenizer(WORDPIECE_SPECIALS)


def evaluate_rankings(
    rankings: Mapping[str, Sequence[RankedQuestion]],
    *,
    ks: Sequence[int] = (5, 10),
    match: str = "string",
) -> dict[str, dict[str, float]]:
    """The measures of several rankings of the same questions, by name of the ranking.

    MRecall@k and alpha-nDCG@k, of all questions and, as multi_..., of those with
    several answers, and top-k accuracy. Questions without answers are left out.

    Args:
        rankings: of each name, n questions with their candidates, best first.
        ks: the depths to report; those beyond the candidates are left out.
        match: how answers are compared, see `evaluation.answers`.

    Raises:
        ConfigError: no k is reached.
        DataError: no question has an answer; or rankings are of different questions.
    """
    first = next(iter(rankings.values()))
    questions = [one.question for one in first]
    known = [place for place, one in enumerate(questions) if one.answers]
    if not known:
        raise DataError(
            "no question has answers, so nothing says which passages are right: give "
            "rankings with answers, or --queries with them."
        )
    if any(
        [one.question for one in ranked] != questions for ranked in rankings.values()
    ):
        raise DataError(f"{', '.join(rankings)} are rankings of different questions.")
    judged = [questions[place] for place in known]
    name = _register(judged, tuple(ks), match)
    vocabularies.use(_NO_WORDS)
    try:
        return {
            label: evaluator.evaluate_task(
                name,
                _SPLIT,
                lambda table, ranked=ranked: candidates.stack(
                    [ranked[place].candidates for place in known]
                ),
                max_tokens=_TOKENS,
            ).metrics
            for label, ranked in rankings.items()
        }
    finally:
        seqio.TaskRegistry.remove(name)


def _register(questions, ks: tuple[int, ...], match: str) -> str:
    """Registers the task of some questions and returns its name."""
    identity = json.dumps([[one.question_id for one in questions], ks, match])
    name = f"ranked_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    seqio.TaskRegistry.add(
        name,
        source=sources.question_source({_SPLIT: lambda: questions}),
        preprocessors=[preprocessors.tokenize_questions],
        output_features={
            "query": seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)
        },
        metric_objs=[
            evaluator.MultiAnswer(ks=ks, match=match),
            evaluator.TopKAccuracy(ks=ks, match=match),
        ],
    )
    return name
