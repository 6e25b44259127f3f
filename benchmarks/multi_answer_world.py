"""Rerankers of questions with several answers, in a world that is made up.

    python benchmarks/multi_answer_world.py --json
    python benchmarks/multi_answer_world.py --seeds 0 1 2 --depths 5 10 --ablations

A question asks for a kind of thing of somebody's ("taste person7"). He has one to five
of that kind; a passage tells one of them, the first is told ten times, the second three
times, the others once. A ranking holds all these passages, passages about other kinds
of the same person, and passages about other people, in an order that says little.

A T5 without any weights has lessons first, on questions of their own, in what a T5 that
was trained on text can do: to look a passage up by its index and compare it with
others, and to point at right ones that tell what some others do not. From these weights
on monoT5, IndepPR and JPR are each trained with as many steps of as many questions, and
rerank rankings they have not seen.

Printed for each: MRecall of all questions and of those with several answers; the share
of picks that hold an answer; and, of the picks after the first of a question that had
an answer left, the share that hold one ("new"). Besides: the first weights, decoded as
JPR's are; any order of the right passages, which is the most that scores of relevance
can say; and the best order there is. Means over seeds, with the standard deviation.
"""

import dataclasses
import functools
import hashlib
import sys
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

from art_jax import partitioning
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.oracle import OracleRules, choose_covering
from art_jax.data.passages import Passage
from art_jax.data.prompts import PassagePrompt
from art_jax.data.questions import Question
from art_jax.evaluation.multi_answer import multi_answer_recall
from art_jax.generation.tree import TreeRules
from art_jax.losses import dynamic_oracle
from art_jax.methods.jpr.joint import IndepPr, Jpr, decoder_inputs, scores_of_picks
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.methods.ranked_table import build_ranked_table
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import fid, t5
from art_jax.training import loop, update

KINDS = ("taste", "trade", "town", "tongue")
VALUES_A_KIND, PEOPLE, FILLERS = 12, 40, 6
# How many passages tell the first value, the second and so on; how many have so many.
TELLINGS = (10, 3, 1, 1, 1)
NUM_VALUES = (0.3, 0.25, 0.2, 0.15, 0.1)
DEPTH = INDEXES = 32
FEW, MANY = 6, 16
TOLD, INDEX_TOKENS = 3, tuple(range(4, 4 + INDEXES))
# An index, the question's kind and person, the passage's person, kind and value, a
# filler, the end.
JOINT = {"prompt": PassagePrompt("{i} {q} {c}", 8), "index_tokens": INDEX_TOKENS}
VALUE_COLUMN = 5
ABLATIONS = {
    "answerless negatives": {"prefix": "answerless"},
    "no negatives": {"prefix": "positives"},
    "teacher forcing": {"prefix": "ranked"},
}


@dataclasses.dataclass(frozen=True)
class WordList:
    """A tokeniser of known words, parted by spaces."""

    words: tuple[str, ...]

    @property
    def vocab_size(self):
        """The number of ids."""
        return len(self.words)

    @property
    def digest(self):
        """Of its words."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def encode_batch(self, texts):
        """Ids of each text's words; 2 for one that is unknown."""
        ids = {word: number for number, word in enumerate(self.words)}
        return [[ids.get(word, 2) for word in text.split()] for text in texts]


def make_tokenizer():
    """Returns the tokeniser of the world's words."""
    words = ["<pad>", "</s>", "<unk>", "<told>"]
    words += [f"<index{number}>" for number in range(INDEXES)]
    words += ["true", "false", *KINDS]
    words += [f"{kind}{number}" for kind in KINDS for number in range(VALUES_A_KIND)]
    words += [f"person{number}" for number in range(PEOPLE)]
    words += [f"filler{number}" for number in range(FILLERS)]
    return WordList(tuple(words))


def make_rankings(count, seed, tellings=TELLINGS, num_values=NUM_VALUES, depth=DEPTH):
    """Returns questions with rankings.

    Args:
        count: how many.
        seed: of everything.
        tellings: passages that tell a person's first value, the second, and so on.
        num_values: share of the questions that have one value, two, and so on.
        depth: passages of a ranking.
    """
    # Not the stream of any run's batches, or these would come sorted by it.
    rng = np.random.default_rng([seed, 2021])
    numbers = 1 + rng.choice(len(num_values), size=count, p=num_values)
    return [
        make_ranking(f"q{place}", tellings[:number], depth, rng)
        for place, number in enumerate(numbers)
    ]


def make_ranking(question_id, tellings, depth, rng):
    """Returns one question: a kind, its values, and passages in an uncertain order."""
    person, kind = rng.integers(PEOPLE), KINDS[rng.integers(len(KINDS))]
    values = rng.permutation(VALUES_A_KIND)
    own, foreign = values[: len(tellings)], values[len(tellings) :]
    told = np.repeat(own, tellings)
    found = [(tell(person, kind, number, rng), 1.5) for number in told]
    while len(found) < depth:
        if rng.random() < 0.5:
            other = KINDS[rng.integers(len(KINDS))]
            if other == kind:
                continue
            text = tell(person, other, rng.integers(VALUES_A_KIND), rng)
        else:
            someone = (person + rng.integers(1, PEOPLE)) % PEOPLE
            # Another's passage that told his value would hold an answer by chance.
            text = tell(someone, kind, rng.choice(foreign), rng)
        found.append((text, 0.0))
    scores = np.array([signal for _, signal in found]) + rng.gumbel(size=depth)
    order = np.argsort(-scores)
    groups = tuple((f"{kind}{number}",) for number in own)
    return RankedQuestion(
        Question(
            question_id,
            f"{kind} person{person}",
            answers=tuple(alias for group in groups for alias in group),
            answer_groups=groups,
        ),
        tuple(
            Candidate(Passage("", found[place][0]), float(scores[place]))
            for place in order
        ),
    )


def tell(person, kind, number, rng):
    """Returns a passage that tells a value, and a word that says nothing."""
    return f"person{person} {kind} {kind}{number} filler{rng.integers(FILLERS)}"


def main():
    """Trains and measures."""
    flags = measure.parser(__doc__.split("\n")[0])
    flags.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags.add_argument("--depths", type=int, nargs="+", default=[5], help="k")
    flags.add_argument("--steps", type=int, default=1000, help="of each method")
    flags.add_argument(
        "--lesson-steps",
        type=int,
        nargs=4,
        default=[1000, 1500, 2000, 4000],
        help="before: reading, and the three of listing",
    )
    flags.add_argument("--batch-size", type=int, default=32)
    flags.add_argument("--num-passages", type=int, default=16, help="read in training")
    flags.add_argument("--questions", type=int, default=4000)
    flags.add_argument("--test-questions", type=int, default=500)
    flags.add_argument("--learning-rate", type=float, default=3e-4, help="of methods")
    flags.add_argument("--gammas", type=float, nargs="+", default=[1.0])
    flags.add_argument("--betas", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    flags.add_argument("--walk", default="random", help="see OracleRules")
    flags.add_argument("--ablations", action="store_true", help="of JPR's training")
    options = flags.parse_args()
    runs = [run(options, seed) for seed in options.seeds]
    result = {"questions": options.test_questions, "steps": options.steps}
    for name in runs[0]:
        each = [one[name] for one in runs]
        result[name] = float(np.mean(each))
        if len(runs) > 1:
            result[f"{name} sd"] = float(np.std(each, ddof=1))
    measure.show(result, as_json=options.json)


def run(options, seed):
    """Returns the measures of one seed, by name."""
    tokenizer = make_tokenizer()
    config = t5.T5Config(
        vocab_size=tokenizer.vocab_size,
        emb_dim=64,
        num_heads=4,
        head_dim=16,
        mlp_dim=128,
        num_encoder_layers=2,
        num_decoder_layers=3,
        mlp_activations=("relu",),
        logits_via_embedding=True,
        dtype="float32",
    )
    space = T5Workspace(partitioning.make_mesh(1), config, tokenizer)
    train, test = (
        build_ranked_table(make_rankings(count, 6 * seed + place), tokenizer)
        for place, count in enumerate((options.questions, options.test_questions))
    )
    pointwise = Pointwise(num_negatives=3, prompt=PassagePrompt("{q} {c}", 7))
    start = learn_lessons(options, seed, space)

    def learn(name, method, params, table):
        return fit(
            f"{seed} {name}",
            method,
            space,
            table,
            params,
            options.steps,
            options.learning_rate,
            options.batch_size,
        )

    drawn = {"num_passages": options.num_passages, "num_indexes": INDEXES}
    results = references(test, options.depths, seed)
    results |= measures("retrieval", test, test.priors, options.depths)
    # No lesson has shown it a passage alone.
    params = fit(f"{seed} judging", pointwise, space, train, start, 400, 2e-3, 32)
    params = learn("monoT5", pointwise, params, train)
    scores = pointwise.log_likelihoods(params, space, test, batch_size=100)
    results |= measures("monoT5", test, scores, options.depths)
    for k in options.depths:
        rules = OracleRules(k, positives="all", **drawn)
        independent = IndepPr(rules=rules, **JOINT)
        params = learn(f"IndepPR k={k}", independent, start, train)
        score = functools.partial(
            independent.first_log_likelihoods, params, space, batch_size=100
        )
        results |= measures("IndepPR", test, score(test), [k])
        ranked = train.with_priors(score(train))
        first = Jpr(rules=OracleRules(k, **drawn), **JOINT)
        results |= decoded("first weights", first, start, space, test, [])
        for name, jpr in joint_methods(options, {"k": k, **drawn}).items():
            params = learn(f"{name} k={k}", jpr, start, ranked)
            results |= decoded(name, jpr, params, space, test, options.betas)
    print(f"{seed} {results}", file=sys.stderr)
    return results


def learn_lessons(options, seed, space):
    """Returns a T5 that can look up, compare and list."""
    right, few, many = (
        build_ranked_table(
            make_rankings(count, 6 * seed + place, *made), space.tokenizer
        )
        for place, (count, *made) in enumerate(
            (
                (20_000, (3, 3), (0, 1), FEW),
                (20_000, (2, 2), (0, 1), FEW),
                (20_000, (3, 3, 3, 2, 2), (0, 0.3, 0.3, 0.2, 0.2), MANY),
            ),
            start=2,
        )
    )
    whole = {"positives": "all", "prefix": "positives", "num_indexes": INDEXES}
    of_few = OracleRules(FEW, FEW, **whole)
    of_many = OracleRules(MANY, MANY, **whole)
    lessons = (
        # Few passages first, all of them right: of many, attention takes far longer to
        # form, and what was named matters less.
        ("reading", Reading(rules=of_few, **JOINT), right, 2e-3, 64),
        (
            "listing of right ones",
            Listing(rules=of_few, by_value=True, asked=("new", "told"), **JOINT),
            right,
            1e-3,
            64,
        ),
        (
            "listing of few",
            Listing(rules=of_few, by_value=True, **JOINT),
            few,
            1e-3,
            64,
        ),
        ("listing of many", Listing(rules=of_many, **JOINT), many, 1e-3, 32),
    )
    params = t5.init_params(space.config, jax.random.key(seed))
    for (name, method, table, rate, size), steps in zip(
        lessons, options.lesson_steps, strict=True
    ):
        params = fit(f"{seed} {name}", method, space, table, params, steps, rate, size)
    return jax.device_get(params)


def joint_methods(options, drawn):
    """Returns JPR for each gamma, and its ablations if asked for, by name."""
    drawn = {**drawn, "walk": options.walk}
    found = {}
    for gamma in options.gammas:
        name = f"JPR gamma={gamma:g}" if len(options.gammas) > 1 else "JPR"
        found[name] = Jpr(rules=OracleRules(gamma=gamma, **drawn), **JOINT)
    for name, change in ABLATIONS.items() if options.ablations else ():
        forced = change["prefix"] == "ranked"
        objective = "teacher_forcing" if forced else "dynamic_oracle"
        rules = OracleRules(**change, **drawn)
        found[f"JPR {name}"] = Jpr(rules=rules, objective=objective, **JOINT)
    return found


def decoded(name, jpr, params, space, test, betas):
    """Returns the measures of SeqDecode, and of TreeDecode with each beta."""
    k, results = jpr.rules.k, {}
    ways = {"Seq": None} | {f"Tree {beta:g}": TreeRules(beta=beta) for beta in betas}
    for way, rules in ways.items():
        picks = jpr.pick(params, space, test, rules=rules, batch_size=100)
        scores = np.stack([scores_of_picks(one, DEPTH) for one in picks.choices])
        results |= measures(f"{name} {way}", test, scores, [k])
        results[f"{name} {way} depth@{k}"] = float(picks.depth.mean())
    return results


@dataclasses.dataclass(frozen=True)
class Reading(IndepPr):
    """A lesson: what does the passage of an index tell, and which others tell it?

    Behind each index the decoder says the value, and points at the other passages that
    tell it; the sum of both losses.
    """

    def loss(self, config, params, batch, key):
        """Returns the mean over passages, and that of each question."""
        del key
        encoded, mask = fid.encode(params, config, batch["tokens"])
        choices, where = batch["choices"], batch["where"]
        logits = fid.decode(params, config, encoded, mask, choices)
        scores = dynamic_oracle.choice_log_likelihoods(logits, choices, where)
        values = batch["tokens"][..., VALUE_COLUMN]
        is_same = values[:, :, None] == values[:, None]
        is_same &= ~jnp.eye(values.shape[1], dtype=bool)
        is_said = jax.nn.one_hot(values, config.vocab_size, dtype=jnp.bool_)
        losses = {
            "saying": mean_nll(jax.nn.log_softmax(logits), is_said),
            "matching": mean_nll(scores, is_same),
        }
        return sum(losses.values()), losses


@dataclasses.dataclass(frozen=True)
class Listing(IndepPr):
    """A lesson: which right passages tell what those named before do not, or do?

    It is asked both behind each one named: what is new as JPR asks, what was told with
    another first token; for who learns the first alone forgets how to compare. Named
    are right ones in a random order; or, if `by_value`, all that tell the same one
    after the other, so that there is something new after most of them.
    """

    asked: tuple[str, ...] = ("new",)
    by_value: bool = False
    num_named: int = 8

    def loss(self, config, params, batch, key):
        """Returns the means over those named, and how likely something new is."""
        values, choices = batch["tokens"][..., VALUE_COLUMN], batch["choices"]
        right, prefix = batch["is_positive"], batch["prefix"]
        if self.by_value:
            turns = jax.random.uniform(key, (len(values), config.vocab_size))
            turns = jnp.take_along_axis(turns, values, axis=1)
            prefix = jnp.argsort(jnp.where(right, turns, 1.0), axis=1)
        prefix = prefix[:, : self.num_named]
        named = jax.nn.one_hot(prefix, values.shape[1], dtype=jnp.int32)
        is_same = values[:, :, None] == values[:, None]
        told = jnp.einsum("btn,bnm->btm", named, is_same.astype(jnp.int32))
        was_named, was_told = (
            (jnp.cumsum(each, axis=1) - each) > 0 for each in (named, told)
        )
        encoded, mask = fid.encode(params, config, batch["tokens"])
        questions = {
            "new": (0, right[:, None] & ~was_told),
            "told": (TOLD, right[:, None] & was_told & ~was_named),
        }
        losses = {}
        for name in self.asked:
            first, is_asked = questions[name]
            inputs = decoder_inputs(prefix, choices).at[:, 0].set(first)
            logits = fid.decode(params, config, encoded, mask, inputs)
            scores = dynamic_oracle.choice_log_likelihoods(
                logits, choices, batch["where"]
            )
            losses[name] = mean_nll(scores, is_asked)
            likely = jnp.where(is_asked, jnp.exp(scores), 0.0).sum(axis=2)
            lines = jnp.maximum(is_asked.any(axis=2).sum(), 1)
            losses[f"p({name})"] = likely.sum() / lines
        return sum(losses[name] for name in self.asked), losses


def mean_nll(log_likelihoods, is_right):
    """The mean over lines of the mean over what is right there, where something is."""
    counts = is_right.sum(axis=-1).astype(jnp.float32)
    totals = jnp.where(is_right, log_likelihoods, 0.0).sum(axis=-1)
    lines = jnp.maximum((counts > 0).sum(), 1).astype(jnp.float32)
    return -(totals / jnp.maximum(counts, 1.0)).sum() / lines


def fit(name, method, space, table, params, steps, learning_rate, batch_size):
    """Returns the weights after so many more steps."""
    problem = method.bind(space, batch_size=batch_size, seed=0, table=table)
    rate = optax.warmup_constant_schedule(0.0, learning_rate, 50)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    started, recent = time.process_time(), []

    def show(step, metrics):
        recent.append(metrics)
        if step % 100 == 0:
            means = {
                key: round(float(np.mean([float(one[key]) for one in recent])), 3)
                for key in recent[0].keys() - {"grad_norm", "skipped_in_a_row"}
            }
            recent.clear()
            seconds = time.process_time() - started
            print(f"{name} {step} {seconds:.0f} s of CPU {means}", file=sys.stderr)

    run = loop.run_steps(
        loop.RunState(update.init_state(loop.copy_params(params), optimizer)),
        problem,
        update.make_update(problem.loss, optimizer),
        train_steps=steps,
        key=jax.random.key(0),
        observers=[show],
    )
    return run.train.params


def references(table, depths, seed):
    """Returns the measures of the best order, and of the right ones in any order."""
    rng = np.random.default_rng(seed)
    results = {}
    for k in depths:
        best = np.zeros(table.rows.shape)
        for scores, held in zip(best, table.held, strict=True):
            # A greedy cover is the best there is where a passage tells one value.
            scores[: len(held)] = held.any(axis=1)
            scores[choose_covering(held, k)] = 2
        results |= measures("best order", table, best, [k])
        orders = [
            measures("", table, np.where(best > 0, rng.random(best.shape) + 1, 0), [k])
            for _ in range(10)
        ]
        for name in orders[0]:
            mean = float(np.mean([one[name] for one in orders]))
            results[f"right, any order{name}"] = mean
    return results


def measures(name, table, scores, depths):
    """Returns what is measured of the order of some scores, [n, K], by name."""
    orders = np.argsort(-np.asarray(scores), axis=1, kind="stable")
    held = [
        one[order[: len(one)]] for one, order in zip(table.held, orders, strict=True)
    ]
    has_several = np.array([one.shape[1] > 1 for one in held])
    found = {}
    for k in depths:
        hits = multi_answer_recall(held, k)
        found[f"{name} MRecall@{k}"] = float(hits.mean())
        found[f"{name} MRecall@{k} multi"] = float(hits[has_several].mean())
        precision = np.mean([one[:k].any(axis=1).mean() for one in held])
        found[f"{name} precision@{k}"] = float(precision)
        found[f"{name} new@{k}"] = float(np.mean(new_answers(held, k)))
    return found


def new_answers(held, k):
    """Of each later pick of a question with an answer left: whether it holds one."""
    found = []
    for one in held:
        seen = np.logical_or.accumulate(one[:k], axis=0)
        is_left = ~seen[:-1].all(axis=1)
        found += (one[1:k] & ~seen[:-1]).any(axis=1)[is_left].tolist()
    return found


if __name__ == "__main__":
    main()
