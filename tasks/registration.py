"""What every retrieval task is made of."""

from art_jax.data import example_sources, preprocessors, sources, vocabularies
from art_jax.data.examples import TrainingExample
from art_jax.data.host_tensorflow import seqio
from art_jax.evaluation import evaluator

DEFAULT_KS = (1, 5, 20, 50, 100)


def add_task(
    name,
    readers,
    *,
    ks=DEFAULT_KS,
    match="string",
    metrics=None,
    more_preprocessors=(),
):
    """Registers a task of questions with what it is measured by.

    Args:
        name: of the task.
        readers: for each split, a function that gives its questions.
        ks: depths of top-k accuracy.
        match: how answers are compared, see `art_jax.evaluation.answers`.
        metrics: of `art_jax.evaluation.evaluator`; None: top-k accuracy, at `ks` and
            with `match`.
        more_preprocessors: run once the questions are tokenised.
    """
    if metrics is None:
        metrics = [evaluator.TopKAccuracy(ks=ks, match=match)]
    seqio.TaskRegistry.add(
        name,
        source=sources.question_source(readers),
        preprocessors=[preprocessors.tokenize_questions, *more_preprocessors],
        output_features={
            "query": seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)
        },
        metric_objs=list(metrics),
    )


def add_example_task(name, readers, *, kind=TrainingExample, more_preprocessors=()):
    """Registers a task of questions with passages, to train on; it has no metric.

    Args:
        name: of the task.
        readers: for each split, a function that gives its examples.
        kind: of the examples, `TrainingExample` or `RankedQuestion`.
        more_preprocessors: run once the questions are tokenised.
    """
    seqio.TaskRegistry.add(
        name,
        source=example_sources.example_source(readers, kind),
        preprocessors=[preprocessors.tokenize_questions, *more_preprocessors],
        output_features={
            "query": seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)
        },
    )
