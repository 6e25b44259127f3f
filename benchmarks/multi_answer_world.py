"""Rerankers of questions with several answers, in a world that is made up.

    python benchmarks/multi_answer_world.py --json
    python benchmarks/multi_answer_world.py --seeds 3 --steps 1500 --depths 5 10

A question asks for a kind of thing that somebody has ("taste of mura"). He has one to
four values of that kind; a passage tells one of them, and the commoner a value, the
more passages tell it. A ranking holds all these passages, passages about other kinds
of the same person, and passages about other people, in an order that says little. A T5
without any weights is trained first to judge passages one by one (monoT5), then to say
the index of the right one of two, as the paper trains on Natural Questions first; from
these weights on monoT5, IndepPR and JPR are each trained with as many steps of as many
questions, and rerank rankings they have not seen.

Printed: MRecall of all questions and of those with several answers, the share of picks
that hold an answer, and the depth of JPR's trees; means over seeds, with the standard
deviation.
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
from art_jax.data.oracle import OracleRules
from art_jax.data.passages import Passage
from art_jax.data.prompts import PassagePrompt
from art_jax.data.questions import Question
from art_jax.evaluation.multi_answer import multi_answer_recall
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr.joint import IndepPr, Jpr, scores_of_picks
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.methods.ranked_table import build_ranked_table
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import t5
from art_jax.training import loop, update

KINDS = ("taste", "trade", "town", "tongue")
VALUES_A_KIND, PEOPLE, FILLERS = 12, 40, 6
DEPTH = INDEXES = 16
INDEX_TOKENS = tuple(range(4, 4 + INDEXES))


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
    words += ["question:", "index:", "context:", "of", "is", "true", "false", *KINDS]
    words += [value(kind, n) for kind in KINDS for n in range(VALUES_A_KIND)]
    words += [f"person{n}" for n in range(PEOPLE)]
    words += [f"filler{n}" for n in range(FILLERS)]
    return WordList(tuple(words))


def value(kind, number):
    """Returns a word for a value."""
    return f"{kind}{number}"


def make_rankings(count, seed):
    """Returns questions with rankings.

    Args:
        count: how many.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    return [make_ranking(f"q{number}", rng) for number in range(count)]


def make_ranking(question_id, rng):
    """Returns one question: a kind, its values, and passages in an uncertain order."""
    person, kind = rng.integers(PEOPLE), KINDS[rng.integers(len(KINDS))]
    num_values = rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15])
    values = rng.permutation(VALUES_A_KIND)
    own, foreign = values[:num_values], values[num_values:]
    # The first value is the commonest: it alone may fill the first places.
    tellings = np.repeat(own, [max(1, 6 - 3 * place) for place in range(num_values)])
    found = [(tell(person, kind, number, rng), 1.5) for number in tellings]
    while len(found) < DEPTH:
        if rng.random() < 0.5:
            other = KINDS[rng.integers(len(KINDS))]
            if other == kind:
                continue
            text = tell(person, other, rng.integers(VALUES_A_KIND), rng)
        else:
            someone = (person + rng.integers(1, PEOPLE)) % PEOPLE
            text = tell(someone, kind, rng.choice(foreign), rng)
        found.append((text, 0.0))
    scores = np.array([signal for _, signal in found]) + rng.gumbel(size=DEPTH)
    order = np.argsort(-scores)
    groups = tuple((value(kind, number),) for number in own)
    return RankedQuestion(
        Question(
            question_id,
            f"{kind} of person{person}",
            answers=tuple(alias for group in groups for alias in group),
            answer_groups=groups,
        ),
        tuple(
            Candidate(Passage("", found[place][0]), float(scores[place]))
            for place in order
        ),
    )


def tell(person, kind, number, rng):
    """Returns a passage that tells a value, among words that say nothing."""
    before, behind = rng.integers(FILLERS, size=2)
    return (
        f"filler{before} {kind} of person{person} is {value(kind, number)} "
        f"filler{behind}"
    )


def main():
    """Trains and measures."""
    flags = measure.parser(__doc__.split("\n")[0])
    flags.add_argument("--seeds", type=int, default=1)
    flags.add_argument("--depths", type=int, nargs="+", default=[5], help="k")
    flags.add_argument("--judging-steps", type=int, default=500, help="first")
    flags.add_argument("--pointing-steps", type=int, default=600, help="then")
    flags.add_argument("--steps", type=int, default=1000, help="of each method")
    flags.add_argument("--batch-size", type=int, default=32)
    flags.add_argument("--questions", type=int, default=3000)
    flags.add_argument("--test-questions", type=int, default=300)
    flags.add_argument("--learning-rate", type=float, default=2e-3)
    flags.add_argument("--gamma", type=float, default=1.0)
    flags.add_argument("--beta", type=float, default=2.0)
    flags.add_argument("--walk", default="ranked", help="see OracleRules")
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
        num_decoder_layers=2,
        mlp_activations=("relu",),
        logits_via_embedding=True,
        dtype="float32",
    )
    space = T5Workspace(partitioning.make_mesh(1), config, tokenizer)
    train = build_ranked_table(make_rankings(options.questions, 2 * seed), tokenizer)
    test = build_ranked_table(
        make_rankings(options.test_questions, 2 * seed + 1), tokenizer
    )
    prompt = PassagePrompt("index: {i} question: {q} context: {c}", 18)
    joint = {"prompt": prompt, "index_tokens": INDEX_TOKENS}

    def learn(name, method, params, table=train, steps=options.steps):
        return fit(f"{seed} {name}", method, space, table, params, steps, options)

    pointwise = Pointwise(
        num_negatives=3, prompt=PassagePrompt("question: {q} context: {c}", 16)
    )
    params = t5.init_params(config, jax.random.key(seed))
    params = learn("judging", pointwise, params, steps=options.judging_steps)
    point = OracleRules(1, num_passages=2, num_indexes=INDEXES, positives="all")
    params = learn(
        "pointing", IndepPr(rules=point, **joint), params, steps=options.pointing_steps
    )
    start = jax.device_get(params)

    results = measures("retrieval", test, test.priors, options.depths)
    params = learn("monoT5", pointwise, start)
    scores = pointwise.log_likelihoods(params, space, test, batch_size=20)
    results |= measures("monoT5", test, scores, options.depths)
    for k in options.depths:
        drawn = {"k": k, "num_passages": max(8, k + 2), "num_indexes": INDEXES}
        independent = IndepPr(rules=OracleRules(positives="all", **drawn), **joint)
        params = learn(f"IndepPR k={k}", independent, start)
        score = functools.partial(
            independent.first_log_likelihoods, params, space, batch_size=20
        )
        results |= measures("IndepPR", test, score(test), [k])
        rules = OracleRules(gamma=options.gamma, walk=options.walk, **drawn)
        jpr = Jpr(rules=rules, **joint)
        params = learn(f"JPR k={k}", jpr, start, train.with_priors(score(train)))
        for name, tree in (("Seq", None), ("Tree", TreeRules(beta=options.beta))):
            picks = jpr.pick(params, space, test, rules=tree, batch_size=20)
            scores = [scores_of_picks(one, DEPTH) for one in picks.choices]
            name = f"JPR {name}Decode"
            results |= measures(name, test, np.stack(scores), [k])
            results[f"{name} depth@{k}"] = float(picks.depth.mean())
    return results


def fit(name, method, space, table, params, steps, options):
    """Returns the weights after so many more steps."""
    problem = method.bind(space, batch_size=options.batch_size, seed=0, table=table)
    rate = optax.warmup_constant_schedule(0.0, options.learning_rate, 50)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    started, recent = time.process_time(), []

    def show(step, metrics):
        recent.append({key: float(value) for key, value in metrics.items()})
        if step % 100 == 0:
            means = {
                key: round(np.mean([one[key] for one in recent]).item(), 3)
                for key in recent[0].keys() - {"grad_norm", "skipped_in_a_row"}
            }
            recent.clear()
            seconds = time.process_time() - started
            print(f"{name} {step} {seconds:.0f} s of CPU {means}", file=sys.stderr)

    run = loop.run_steps(
        loop.RunState(update.init_state(jax.tree.map(jnp.array, params), optimizer)),
        problem,
        update.make_update(problem.loss, optimizer),
        train_steps=steps,
        key=jax.random.key(0),
        observers=[show],
    )
    return run.train.params


def measures(name, table, scores, depths):
    """Returns MRecall and precision by name, for the order of some scores, [n, K]."""
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
    return found


if __name__ == "__main__":
    main()
