"""The benchmarks of the papers: their files, who publishes them, how they are read.

Files lie in `sources.data_directory()`, in a folder for each set, under the names they
are published with; any may be gzipped. Nothing is opened before a split is asked for.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping

from art_jax.data import benchmark_files, example_files, sources
from art_jax.data.examples import TrainingExample
from art_jax.data.questions import Question, read_questions
from art_jax.errors import ConfigError

Readers = Mapping[str, Callable[[], Iterator[Question]]]


@dataclasses.dataclass(frozen=True)
class QuestionSet:
    """The questions of one benchmark.

    name: of its task, and of its folder where `folder` is "".
    files: for each split, the names its file goes by; the first that is there is read.
    url: where it is published.
    licence: in short; what its publisher says counts.
    read_own: reads the file of the set's authors; `read_questions` all others.
    match: how answers are compared, see `evaluation.answers`.
    folder: in the data directory.
    own_suffixes: that names of the authors' files end in, `.gz` aside.
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    url: str
    licence: str
    read_own: Callable[[pathlib.Path], Iterator[Question]] = read_questions
    match: str = "string"
    folder: str = ""
    own_suffixes: tuple[str, ...] = (".json",)


@dataclasses.dataclass(frozen=True)
class JudgedSet:
    """Questions with judgments of a corpus: BEIR's, MS MARCO's.

    name: of its task.
    folder: in the data directory.
    questions: for each split, the name of the file of questions.
    judgments: for each split, the name of the file of judgments.
    url: where it is published.
    licence: in short; what its publisher says counts.
    """

    name: str
    folder: str
    questions: Mapping[str, str]
    judgments: Mapping[str, str]
    url: str
    licence: str


@dataclasses.dataclass(frozen=True)
class ExampleSet:
    """Questions with passages to train a retriever on, in DPR's format.

    name: of its task.
    folder: in the data directory.
    files: for each split, the name of its file.
    url: where it is published.
    licence: in short; what its publisher says counts.
    """

    name: str
    folder: str
    files: Mapping[str, str]
    url: str
    licence: str


def _tables(stem: str, *splits: str) -> dict[str, tuple[str, ...]]:
    """The names of a set's tables of questions: DPR's, then ART's."""
    return {
        split: (f"{stem}-{split}.qa.csv", f"{stem}-{split}.csv") for split in splits
    }


def _with_original(
    tables: dict[str, tuple[str, ...]], **originals: str
) -> dict[str, tuple[str, ...]]:
    """The same, and after them the files of the set's own authors."""
    return {
        split: (
            *tables.get(split, ()),
            *((originals[split],) if split in originals else ()),
        )
        for split in {**tables, **originals}
    }


_DPR = "https://github.com/facebookresearch/DPR (data/download_data.py)"
_ALL = ("train", "dev", "test")

OPEN_QA = (
    QuestionSet(
        name="nq_open",
        folder="nq",
        files=_with_original(
            _tables("nq", *_ALL), train="NQ-open.train.jsonl", dev="NQ-open.dev.jsonl"
        ),
        url=f"https://github.com/google-research-datasets/natural-questions, {_DPR}",
        licence="CC BY-SA 3.0",
    ),
    QuestionSet(
        name="nq_full",
        folder="nq",
        files={"train": ("nq-full-train.csv", "nq-full.csv")},
        url="https://github.com/DevSinghSachan/art (its data releases)",
        licence="CC BY-SA 3.0",
    ),
    QuestionSet(
        name="triviaqa",
        files=_with_original(
            _tables("trivia", *_ALL),
            train="unfiltered-web-train.json",
            dev="unfiltered-web-dev.json",
        ),
        url=f"https://nlp.cs.washington.edu/triviaqa, {_DPR}",
        licence="Apache-2.0 (code); questions belong to their authors",
        read_own=benchmark_files.read_triviaqa,
    ),
    QuestionSet(
        name="webquestions",
        files={
            "train": (
                "webquestions-train.qa.csv",
                "webq-train.csv",
                "webquestions.examples.train.json",
            ),
            "dev": ("webquestions-dev.qa.csv", "webq-dev.csv"),
            "test": (
                "webquestions-test.qa.csv",
                "webq-test.csv",
                "webquestions.examples.test.json",
            ),
        },
        url=f"https://nlp.stanford.edu/software/sempre, {_DPR}",
        licence="CC BY 4.0",
        read_own=benchmark_files.read_webquestions,
    ),
    QuestionSet(
        name="squad_open",
        folder="squad",
        files=_with_original(
            _tables("squad1", *_ALL), train="train-v1.1.json", test="dev-v1.1.json"
        ),
        url=f"https://rajpurkar.github.io/SQuAD-explorer, {_DPR}",
        licence="CC BY-SA 4.0",
        read_own=benchmark_files.read_squad,
    ),
    QuestionSet(
        name="curatedtrec",
        files=_with_original(
            _tables("curatedtrec", *_ALL),
            train="CuratedTrec-train.txt",
            test="CuratedTrec-test.txt",
        ),
        url="https://github.com/facebookresearch/DrQA (download.sh), of "
        f"https://github.com/brmson/dataset-factoid-curated, {_DPR}",
        licence="public domain (NIST) with curated patterns",
        read_own=benchmark_files.read_drqa,
        own_suffixes=(".txt",),
        match="regex",
    ),
)

ENTITY_RELATIONS = (
    "P17",
    "P19",
    "P20",
    "P26",
    "P36",
    "P40",
    "P50",
    "P69",
    "P106",
    "P112",
    "P127",
    "P131",
    "P136",
    "P159",
    "P170",
    "P175",
    "P176",
    "P264",
    "P276",
    "P407",
    "P413",
    "P495",
    "P740",
    "P800",
)

ENTITY_QUESTIONS = tuple(
    QuestionSet(
        name=f"entity_questions_{relation.lower()}",
        folder="entity_questions",
        files={
            split: (f"{split}/{relation}.{split}.json", f"{relation}.{split}.json")
            for split in _ALL
        },
        url="https://github.com/princeton-nlp/EntityQuestions",
        licence="MIT",
        read_own=benchmark_files.read_entity_questions,
    )
    for relation in ENTITY_RELATIONS
)

MULTI_ANSWER = (
    QuestionSet(
        name="ambigqa",
        files={
            "train": ("train_light.json", "train.json"),
            "dev": ("dev_light.json", "dev.json"),
        },
        url="https://nlp.cs.washington.edu/ambigqa",
        licence="CC BY-SA 3.0",
        read_own=benchmark_files.read_ambigqa,
    ),
    QuestionSet(
        name="webqsp",
        files={"train": ("WebQSP.train.json",), "test": ("WebQSP.test.json",)},
        url="https://www.microsoft.com/download/details.aspx?id=52763",
        licence="Microsoft Research licence, in its archive",
        read_own=benchmark_files.read_webqsp,
    ),
    # Not published: JPR's authors say how they are made.
    QuestionSet(
        name="curatedtrec_sets",
        folder="curatedtrec",
        files={split: (f"answer-sets-{split}.jsonl",) for split in _ALL},
        url="(made of CuratedTREC's patterns by `art-jax data answer-sets`)",
        licence="that of CuratedTREC",
    ),
)

# Texts to be generated: their answers are what they should be.
GENERATION = (
    QuestionSet(
        name="jeopardy_qg",
        folder="searchqa",
        files={
            "train": ("train.zip", "train"),
            "dev": ("val.zip", "val"),
            "test": ("test.zip", "test"),
        },
        url="https://github.com/nyu-dl/dl4ir-searchQA",
        licence="none is stated; clues belong to Jeopardy!'s owners",
        read_own=benchmark_files.read_searchqa,
        own_suffixes=(".zip", "train", "val", "test"),
    ),
    QuestionSet(
        name="msmarco_nlg",
        folder="msmarco",
        files={"train": ("train_v2.1.json",), "dev": ("dev_v2.1.json",)},
        url="https://microsoft.github.io/msmarco",
        licence="non-commercial research, see its terms",
        read_own=benchmark_files.read_msmarco_nlg,
    ),
    *(
        QuestionSet(
            name=f"fever_{num_labels}way",
            folder="fever",
            files={
                "train": ("train.jsonl",),
                "dev": ("shared_task_dev.jsonl", "paper_dev.jsonl"),
            },
            url="https://fever.ai/dataset/fever.html",
            licence="CC BY-SA 3.0",
            read_own=functools.partial(
                benchmark_files.read_fever, num_labels=num_labels
            ),
            own_suffixes=(".jsonl",),
        )
        for num_labels in (3, 2)
    ),
)

# KILT's task, as its files are called, and the splits that are published.
_KILT_FILES = {
    "fever": ("fever", _ALL),
    "aidayago2": ("aidayago2", _ALL),
    "wned": ("wned", ("dev", "test")),
    "cweb": ("cweb", ("dev", "test")),
    "trex": ("trex", _ALL),
    "zeroshot_re": ("structured_zeroshot", _ALL),
    "nq": ("nq", _ALL),
    "hotpotqa": ("hotpotqa", _ALL),
    "triviaqa": ("triviaqa", _ALL),
    "eli5": ("eli5", _ALL),
    "wow": ("wow", _ALL),
}

KILT = tuple(
    QuestionSet(
        name=f"kilt_{task}",
        folder="kilt",
        files={split: (f"{stem}-{split}-kilt.jsonl",) for split in splits},
        url="https://github.com/facebookresearch/KILT",
        licence="MIT, and those of the sets it is made of",
        read_own=benchmark_files.read_kilt_questions,
        own_suffixes=(".jsonl",),
    )
    for task, (stem, splits) in _KILT_FILES.items()
)

# With training evidence, so a retriever can be trained on them.
KILT_TRAINED = (
    "kilt_nq",
    "kilt_wow",
    "kilt_trex",
    "kilt_triviaqa",
    "kilt_hotpotqa",
    "kilt_zeroshot_re",
    "kilt_fever",
    "kilt_aidayago2",
)
# Larger than the others by an order of magnitude.
KILT_LARGE = ("kilt_trex", "kilt_zeroshot_re")
# Whole documents that ask about a mention in them.
KILT_MENTIONS = ("kilt_aidayago2", "kilt_wned", "kilt_cweb")
# Sizes of training sets that show how a retriever learns from little.
FEW_SHOT = (128, 1024)

MS_MARCO = JudgedSet(
    name="msmarco_passage",
    folder="msmarco",
    questions={"train": "queries.train.tsv", "dev": "queries.dev.small.tsv"},
    judgments={"train": "qrels.train.tsv", "dev": "qrels.dev.small.tsv"},
    url="https://microsoft.github.io/msmarco",
    licence="non-commercial research, see its terms",
)

CQADUPSTACK = (
    "android",
    "english",
    "gaming",
    "gis",
    "mathematica",
    "physics",
    "programmers",
    "stats",
    "tex",
    "unix",
    "webmasters",
    "wordpress",
)

# The splits with judgments that BEIR publishes for each set.
_BEIR_SPLITS = {
    "msmarco": _ALL,
    "trec-covid": ("test",),
    "nfcorpus": _ALL,
    "bioasq": ("test",),
    "nq": ("test",),
    "hotpotqa": _ALL,
    "fiqa": _ALL,
    "signal1m": ("test",),
    "trec-news": ("test",),
    "robust04": ("test",),
    "arguana": ("test",),
    "webis-touche2020": ("test",),
    **{f"cqadupstack/{forum}": ("test",) for forum in CQADUPSTACK},
    "quora": ("dev", "test"),
    "dbpedia-entity": ("dev", "test"),
    "scidocs": ("test",),
    "fever": _ALL,
    "climate-fever": ("test",),
    "scifact": ("train", "test"),
}

BEIR = tuple(
    JudgedSet(
        name="beir_" + folder.replace("/", "_").replace("-", "_"),
        folder=f"beir/{folder}",
        questions=dict.fromkeys(splits, "queries.jsonl"),
        judgments={split: f"qrels/{split}.tsv" for split in splits},
        url="https://github.com/beir-cellar/beir",
        licence="that of each set, see BEIR's list",
    )
    for folder, splits in _BEIR_SPLITS.items()
)


_BIENCODER_STEMS = ("nq", "trivia", "squad1", "webquestions", "curatedtrec")

# What DPR's retrievers were trained on; the last has the negatives that a first
# retriever took for answers.
BIENCODER = tuple(
    ExampleSet(
        name=f"biencoder_{name}",
        folder="dpr",
        files={split: f"biencoder-{stem}-{split}.json" for split in splits},
        url=_DPR,
        licence="CC BY-NC 4.0",
    )
    for name, stem, splits in (
        *((stem, stem, ("train", "dev")) for stem in _BIENCODER_STEMS),
        ("nq_adv_hn", "nq-adv-hn", ("train",)),
    )
)

# The eight sets of KILT with training evidence, as the multi-task retriever's authors
# made training examples of them.
_MULTIKILT_STEMS = {
    "nq": "nq",
    "wow": "wow",
    "trex": "trex",
    "triviaqa": "triviaqa",
    "hotpotqa": "hotpotqa",
    "zeroshot_re": "zeroshot",
    "fever": "fever",
    "aidayago2": "aidayago2",
}
MULTIKILT = tuple(
    ExampleSet(
        name=f"multikilt_{task}",
        folder="ur",
        files={split: f"{stem}-{split}-multikilt.json" for split in ("train", "dev")},
        url="https://dl.fbaipublicfiles.com/ur/data/retriever, see issue 186 of "
        "https://github.com/facebookresearch/DPR",
        licence="CC BY-NC 4.0, and those of the sets it is made of",
    )
    for task, stem in _MULTIKILT_STEMS.items()
)


def example_readers(
    benchmark: ExampleSet,
) -> dict[str, Callable[[], Iterator[TrainingExample]]]:
    """Returns, for each split, what reads its examples once it is called.

    Examples without a positive passage are left out, as by DPR's loader. What is called
    raises ConfigError where the file is missing, as for `readers`.
    """
    return {
        split: functools.partial(_read_examples, benchmark, split)
        for split in benchmark.files
    }


def _read_examples(benchmark: ExampleSet, split: str) -> Iterator[TrainingExample]:
    path = _find(benchmark, (benchmark.files[split],))
    examples = example_files.read_examples(path, "dpr")
    return (example for example in examples if example.positives)


def readers(benchmark: QuestionSet | JudgedSet) -> Readers:
    """Returns, for each split, what reads its questions once it is called.

    What is called raises ConfigError where a file is missing: which, who publishes it
    and under what licence.
    """
    splits = (
        benchmark.files if isinstance(benchmark, QuestionSet) else benchmark.questions
    )
    return {split: functools.partial(_read_split, benchmark, split) for split in splits}


def _read_split(benchmark: QuestionSet | JudgedSet, split: str) -> Iterator[Question]:
    if isinstance(benchmark, JudgedSet):
        questions = _find(benchmark, (benchmark.questions[split],))
        judgments = _find(benchmark, (benchmark.judgments[split],))
        return benchmark_files.read_judged_questions(questions, judgments)
    path = _find(benchmark, benchmark.files[split])
    is_own = path.name.removesuffix(".gz").endswith(benchmark.own_suffixes)
    return (benchmark.read_own if is_own else read_questions)(path)


def _find(
    benchmark: QuestionSet | JudgedSet | ExampleSet, names: tuple[str, ...]
) -> pathlib.Path:
    """The first file of these names, plain or gzipped, in the benchmark's folder."""
    folder = sources.data_directory() / (benchmark.folder or benchmark.name)
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise ConfigError(
        f"{folder / names[0]} is missing"
        + (f" (nor is there {', '.join(names[1:])})" if names[1:] else "")
        + f", plain or gzipped: {benchmark.name} is published at {benchmark.url}, "
        f"licence: {benchmark.licence}. Put the file there, or set "
        f"{sources.DATA_DIR_VARIABLE} to where your data sets are."
    )
