"""Rerankers of questions with several answers, in a world that is made up.

    python benchmarks/multi_answer_world.py --json
    python benchmarks/multi_answer_world.py --seeds 3 --depths 5 10 --betas 0 1 2 3

A question asks for a kind of thing of somebody's ("taste person7"). He has one to five
of that kind; a passage tells one of them, the first is told ten times, the second three
times, the others once. A ranking holds all these passages, passages about other kinds
of the same person, and passages about other people, in an order that says little.

A T5 without any weights is trained first, on questions of their own, in what a T5 that
was trained on text can do: to judge passages one by one, to point at right ones, to say
what the passage of an index tells, and which other passages tell the same. From these
weights on monoT5, IndepPR and JPR are each trained with as many steps of as many
questions, and rerank rankings they have not seen.

Printed for each: MRecall of all questions and of those with several answers; the share
of picks that hold an answer; and, of the picks after the first of a question that had
an answer left, the share that hold one ("new"). Two lines of reference: any order of
the right passages, which is the most that scores of relevance can say, and the best
order there is. Means over seeds, with the standard deviation.
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
from art_jax.methods.jpr.joint import IndepPr, Jpr, scores_of_picks
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
INDEX_TOKENS = tuple(range(4, 4 + INDEXES))
# An index, the question's kind and person, the passage's person, kind and value, a
# filler, the end.
JOINT = {"prompt": PassagePrompt("{i} {q} {c}", 8), "index_tokens": INDEX_TOKENS}
VALUE_COLUMN = 5
ABLATIONS = {
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
    words = ["<pad>", "</s>", "<unk>", "<free>"]
    words += [f"<index{number}>" for number in range(INDEXES)]
    words += ["true", "false", *KINDS]
    words += [f"{kind}{number}" for kind in KINDS for number in range(VALUES_A_KIND)]
    words += [f"person{number}" for number in range(PEOPLE)]
    words += [f"filler{number}" for number in range(FILLERS)]
    return WordList(tuple(words))


def make_rankings(count, seed, tellings=TELLINGS, num_values=NUM_VALUES):
    """Returns questions with rankings.

    Args:
        count: how many.
        seed: of everything.
        tellings: passages that tell a person's first value, the second, and so on.
        num_values: share of the questions that have one value, two, and so on.
    """
    # Not the stream of any run's batches, or these would come sorted by it.
    rng = np.random.default_rng([seed, 2021])
    numbers = 1 + rng.choice(len(num_values), size=count, p=num_values)
    return [
        make_ranking(f"q{place}", tellings[:number], rng)
        for place, number in enumerate(numbers)
    ]


def make_ranking(question_id, tellings, rng):
    """Returns one question: a kind, its values, and passages in an uncertain order."""
    person, kind = rng.integers(PEOPLE), KINDS[rng.integers(len(KINDS))]
    values = rng.permutation(VALUES_A_KIND)
    own, foreign = values[: len(tellings)], values[len(tellings) :]
    told = np.repeat(own, tellings)
    found = [(tell(person, kind, number, rng), 1.5) for number in told]
    while len(found) < DEPTH:
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
    scores = np.array([signal for _, signal in found]) + rng.gumbel(size=DEPTH)
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
    flags.add_argument("--seeds", type=int, default=1)
    flags.add_argument("--depths", type=int, nargs="+", default=[5], help="k")
    flags.add_argument("--steps", type=int, default=600, help="of each method")
    flags.add_argument("--judging-steps", type=int, default=400, help="first")
    flags.add_argument(
        "--pointing-steps", type=int, nargs=3, default=[500, 500, 900], help="then"
    )
    flags.add_argument("--reading-steps", type=int, default=0, help="at last")
    flags.add_argument("--batch-size", type=int, default=32)
    flags.add_argument("--num-passages", type=int, default=16, help="read in training")
    flags.add_argument("--questions", type=int, default=4000)
    flags.add_argument("--test-questions", type=int, default=500)
    flags.add_argument("--first-learning-rate", type=float, default=2e-3)
    flags.add_argument("--learning-rate", type=float, default=1e-3, help="of methods")
    flags.add_argument("--gammas", type=float, nargs="+", default=[1.0])
    flags.add_argument("--betas", type=float, nargs="+", default=[0.0, 1.0, 2.0, 3.0])
    flags.add_argument("--walk", default="random", help="see OracleRules")
    flags.add_argument("--ablations", action="store_true", help="of JPR's training")
    options = flags.parse_args()
    runs = [run(options, seed) for seed in range(options.seeds)]
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
    train, test, before, flat = (
        build_ranked_table(made, tokenizer)
        for made in (
            make_rankings(options.questions, 4 * seed),
            make_rankings(options.test_questions, 4 * seed + 1),
            make_rankings(options.questions, 4 * seed + 2),
            # No value is common here, so that it cannot be guessed what is told.
            make_rankings(options.questions, 4 * seed + 3, (2,) * 5, (0, 0, 0, 0, 1)),
        )
    )

    def learn(name, method, params, table, steps=None):
        rate = options.learning_rate if steps is None else options.first_learning_rate
        name, steps = f"{seed} {name}", steps or options.steps
        return fit(name, method, space, table, params, steps, rate, options.batch_size)

    pointwise = Pointwise(num_negatives=3, prompt=PassagePrompt("{q} {c}", 7))
    params = t5.init_params(config, jax.random.key(seed))
    params = learn("judging", pointwise, params, before, options.judging_steps)
    # Of few passages first: of many, attention takes far longer to form.
    for (size, k), steps in zip(
        ((2, 1), (options.num_passages, 1), (options.num_passages, 5)),
        options.pointing_steps,
        strict=True,
    ):
        rules = OracleRules(k, size, INDEXES, positives="all")
        point = IndepPr(rules=rules, **JOINT)
        params = learn(f"pointing {k} of {size}", point, params, before, steps)
    if options.reading_steps:
        read = Reading(rules=rules, **JOINT)
        params = learn("reading", read, params, flat, options.reading_steps)
    start = jax.device_get(params)

    drawn = {"num_passages": options.num_passages, "num_indexes": INDEXES}
    results = references(test, options.depths, seed)
    results |= measures("retrieval", test, test.priors, options.depths)
    params = learn("monoT5", pointwise, start, train)
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
        for name, jpr in joint_methods(options, {"k": k, **drawn}).items():
            params = learn(f"{name} k={k}", jpr, start, ranked)
            results |= decoded(name, jpr, params, space, test, options.betas)
    print(f"{seed} {results}", file=sys.stderr)
    return results


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
    """IndepPR that also learns to look passages up by their index.

    Behind an index the decoder says the value that its passage tells, and points at the
    other passages that tell it; the sum of the three losses.
    """

    def loss(self, config, params, batch, key):
        """Returns the mean over questions, and how often each of the three is right."""
        del key
        encoded, mask = fid.encode(params, config, batch["tokens"])
        choices, where = batch["choices"], batch["where"]
        start = jnp.zeros_like(choices[:, :1])
        inputs = jnp.concatenate([start, choices], axis=1)
        logits = fid.decode(params, config, encoded, mask, inputs)
        scores = dynamic_oracle.choice_log_likelihoods(logits, choices, where)
        values = batch["tokens"][..., VALUE_COLUMN]
        said = jax.nn.log_softmax(logits[:, 1:])
        is_right = jax.nn.one_hot(values, config.vocab_size, dtype=jnp.bool_)
        is_same = (values[:, :, None] == values[:, None]) & where[:, None]
        is_same &= where[:, :, None] & ~jnp.eye(values.shape[1], dtype=bool)
        parts = {
            "pointing": (scores[:, :1], batch["is_positive"][:, None]),
            "saying": (said, is_right & where[..., None]),
            "matching": (scores[:, 1:], is_same),
        }
        losses = {name: mean_nll(*part) for name, part in parts.items()}
        return sum(losses.values()), losses


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
