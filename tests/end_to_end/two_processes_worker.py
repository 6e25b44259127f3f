"""One process of a run that test_two_processes.py starts; not a test itself.

python two_processes_worker.py DIRECTORY PORT NUM_PROCESSES PROCESS_INDEX
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np

NUM_DEVICES = 4
NUM_PASSAGES = 41  # 4 devices hold 11, 11, 11 and 8 of them.
BATCH_SIZE = 8
TRAIN_STEPS = 12
WIDTH = 16


def start(port: int, num_processes: int, process_index: int) -> None:
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES // num_processes)
    jax.config.update("jax_disable_most_optimizations", True)  # to compile faster
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if num_processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes, process_index)


def record_reads(partitioning) -> list[dict]:
    """Returns a list to which every part of a global array that is read is added."""
    reads, make_array = [], partitioning.make_array

    def recording(shape, sharding, read):
        def recorded(index):
            first, last, _ = index[0].indices(shape[0]) if index else (0, 1, 1)
            axes = sharding.spec[0] if len(sharding.spec) else None
            reads.append({"axes": axes, "first": first, "last": last, "of": shape[:1]})
            return read(index)

        return make_array(shape, sharding, recorded)

    partitioning.make_array = recording
    return reads


def record_rows(module) -> list[int]:
    """Returns a list to which every row of the evidence that is read is added."""
    rows, layout_rows = [], module.layout_rows

    def recording(layout, tokens, some_rows):
        rows.extend(np.ravel(some_rows).tolist())
        return layout_rows(layout, tokens, some_rows)

    module.layout_rows = recording
    return rows


def main(directory: pathlib.Path) -> None:
    from art_jax import partitioning
    from art_jax.checkpoints import retriever as saved
    from art_jax.data import evidence, layouts, passages, questions, tokenizers
    from art_jax.data.question_table import query_layout, question_table
    from art_jax.errors import PreemptedError
    from art_jax.evaluation import measures
    from art_jax.index import refresh, retriever, rows, table
    from art_jax.methods import art, workspace
    from art_jax.models import bert, dual_encoder
    from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
    from art_jax.training import optimizers, preemption, stage

    reads = record_reads(partitioning)
    laid_out = record_rows(rows)
    some_passages = [
        passages.Passage(
            str(i),
            f"word{i} and thing{i % 7} are about word{i}. Also other{i % 11} is here.",
            f"title{i}",
        )
        for i in range(NUM_PASSAGES)
    ]
    texts = [passage.text for passage in some_passages]
    teacher = QueryLikelihoodTeacher(mu=50.0, max_passage_tokens=24)
    made = {
        "retriever": tokenizers.train_wordpiece(texts, 400),
        "teacher": teacher.make_tokenizer(texts),
    }
    # One process builds the store and all read it, as `art-jax train` does.
    if jax.process_index() == 0:
        evidence.build_evidence(some_passages, directory / "evidence", made)
    partitioning.barrier("evidence")
    store = evidence.load_evidence(directory / "evidence", made)
    some_questions = question_table(
        [
            questions.Question(f"q{i}", f"about word{i}", relevant_ids=(str(i),))
            for i in range(NUM_PASSAGES)
        ],
        made["retriever"],
        10,
    )
    encoder = dual_encoder.DualEncoder(
        bert.BertConfig(
            vocab_size=made["retriever"].vocab_size,
            hidden_size=WIDTH,
            num_layers=0,
            num_heads=2,
            intermediate_size=WIDTH,
            max_positions=32,
            pre_layer_norm=True,
            embedding_layer_norm=False,
            embedding_init_range=1.0,
            residual_init_scale=0.1,
        ),
        pooling="mean",
    )
    mesh = partitioning.make_mesh()
    layout = query_layout(made["retriever"], 24)
    tokens = store.token_tables["retriever"]
    space = workspace.Workspace(
        mesh=mesh,
        encoder=encoder,
        evidence=store,
        tokenizers=made,
        passage_layout=layout,
        query_layout=query_layout(made["retriever"], 10),
        passages=rows.place_rows(tokens, layout, mesh),
        queries=some_questions,
    )
    placed_rows = sorted(laid_out)
    refresher = refresh.Refresher(
        encode=encoder.encode_passage,
        rows=space.passages,
        lengths=layouts.layout_lengths(layout, tokens, np.arange(NUM_PASSAGES)),
        width=WIDTH,
        mesh=mesh,
        evidence_digest=store.digest,
        dtype="float32",
        chunk_tokens=120,
    )
    streamed = dataclasses.replace(
        space, passages=rows.stream_rows(tokens, layout, mesh), stream_tokens=True
    )

    def evaluate(run):
        encode = retriever.build_encode_query(encoder)
        queries = retriever.encode_tokens(
            encode, run.train.params, some_questions.tokens, mesh, batch_size=16
        )
        found = retriever.search_queries(run.table, queries, k=5, batch_size=16)
        values = measures.evaluate_questions(
            some_questions, found.rows, store.passage, (1, 5)
        )
        return {name: v for name, v in values.items() if name != "num_questions"}

    def run_art(space, params, evaluate):
        return stage.run_stage(
            stage.Stage(
                "art",
                art.Art(
                    teacher,
                    num_passages=4,
                    teacher_scale=8.0,
                    write_back=True,
                    cache_scores=space.stream_tokens,
                ),
                train_steps=TRAIN_STEPS,
                batch_size=BATCH_SIZE,
                # The loss does not depend on the passages' common part, whose gradient
                # is rounding alone; a small epsilon would make steps of that.
                optimizer=optimizers.AdamW(
                    peak_learning_rate=3e-3, warmup_share=0.2, epsilon=1e-3
                ),
                refresh_every_steps=4,
                eval_every_steps=4,
                save_every_steps=4,
                log_every_steps=1,
                choose_by="top_5_accuracy",
            ),
            space,
            params,
            refresher=dataclasses.replace(refresher, rows=space.passages),
            passage_side=workspace.passage_side,
            directory=directory / "art",
            evaluate=evaluate,
            report=lambda line: None,
        )

    def evaluate_and_stop(run):
        if run.table.table_step == 8 and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run)

    params = jax.jit(encoder.init, out_shardings=partitioning.replicated(mesh))(
        jax.random.key(0)
    )
    # One process of several gets a signal and all stop; all go on from there, with
    # the tokens streamed where they were in device memory, and scores kept.
    try:
        with preemption.watch_signals():
            run_art(space, params, evaluate_and_stop)
        raise AssertionError("the signal did not stop the run")
    except PreemptedError:
        pass
    params = run_art(streamed, params, evaluate)
    del laid_out[:]
    streamed_refresher = dataclasses.replace(refresher, rows=streamed.passages)

    def make_final(**settings):
        return refresh.refresh(
            streamed_refresher,
            workspace.passage_side(params),
            step=TRAIN_STEPS,
            generation=9,
            **settings,
        )

    final = make_final(parts=directory / "parts", keep_parts=True)
    refreshed_rows = sorted(laid_out)
    # Each process kept its own parts: the same refresh again reads no passage.
    repeated = make_final(parts=directory / "parts")
    assert sorted(laid_out) == refreshed_rows
    assert not (directory / "parts").exists()
    np.testing.assert_array_equal(
        partitioning.to_host(repeated.embeddings),
        partitioning.to_host(final.embeddings),
    )
    table.save_table(final, directory / "index")
    loaded = table.load_table(directory / "index", mesh)
    np.testing.assert_array_equal(
        partitioning.to_host(loaded.embeddings), partitioning.to_host(final.embeddings)
    )
    model = saved.SavedRetriever(encoder, params, made["retriever"], 10, 24)
    saved.save_retriever(directory / "retriever", model)
    again = retriever.Retriever.load(directory, mesh)
    found = again.search(["about word3", "about word7"], k=3)
    facts = {
        "devices": jax.device_count(),
        "local_devices": jax.local_device_count(),
        "reads": reads,
        "placed_rows": placed_rows,
        "refreshed_rows": refreshed_rows,
        "found_rows": found.rows.tolist(),
        "found_scores": found.scores.tolist(),
    }
    path = directory / f"facts_{jax.process_index()}.json"
    path.write_text(json.dumps(facts), encoding="utf-8")
    partitioning.barrier("end")


if __name__ == "__main__":
    start(*map(int, sys.argv[2:]))
    main(pathlib.Path(sys.argv[1]))
