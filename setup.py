"""Installs art_jax, with tasks/ as art_jax.tasks and gin/ as data in art_jax/gin."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
BEAM = "apache-beam>=2.77,<3"
# It has wheels for nothing else.
SCANN = "scann==1.4.2; sys_platform == 'linux' and platform_machine == 'x86_64'"


def read_version() -> str:
    """Returns the version that art_jax/__init__.py states."""
    for line in (ROOT / "art_jax" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise ValueError("art_jax/__init__.py holds no __version__")


packages = setuptools.find_packages(include=["art_jax", "art_jax.*"])
packages += ["art_jax.tasks"]

setuptools.setup(
    name="art-jax",
    version=read_version(),
    description="Questions in, retriever out: dense passage retrieval in JAX.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*packages, "art_jax.gin"],
    # Named one by one: a bare search would install `tests` as a top-level package,
    # and `gin` over the gin-config package.
    package_dir={"art_jax.tasks": "tasks", "art_jax.gin": "gin"},
    package_data={
        "art_jax": ["py.typed"],
        "art_jax.checkpoints": ["*.py.txt"],
        "art_jax.gin": ["**/*.gin"],
    },
    install_requires=[
        "bm25s>=0.3",
        "PyStemmer>=3.0",
        "flax>=0.12",
        "gin-config>=0.5",
        "ir-measures>=0.4",
        "jax>=0.10,<0.13",
        "msgpack",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<0.13",
        "regex",
        "safetensors>=0.5",
        # 0.2.3 needs a protobuf that TensorFlow 2.20 and apache-beam refuse.
        "sentencepiece<=0.2.2",
        "seqio==0.0.20",
        # scann 1.4.2 does not load beside TensorFlow 2.21.
        "tensorflow~=2.20.0; python_version < '3.14'",
        "tensorflow-text~=2.20.0; python_version < '3.14'",
        "tensorboardX>=2.6",
        "tensorstore",
        "tokenizers>=0.21",
        "tqdm",
    ],
    extras_require={
        "beam": [BEAM],
        # What `make bench` compares with, and draws curves with.
        "bench": [
            "faiss-cpu",
            "matplotlib",
            "sentence-transformers==6.2.0",
            "torch==2.13.0",
            "transformers==5.23.0",
        ],
        "parquet": ["pyarrow"],
        # To compare with, never to run: what `make parity` was run with.
        "parity": [
            "sentence-transformers==6.2.0",
            "torch==2.13.0",
            "transformers==5.23.0",
        ],
        # `art-jax evaluate --plot FILE.png`.
        "plot": ["matplotlib"],
        "scann": [SCANN],
        "test": [
            "hypothesis",
            "matplotlib",
            "pyarrow",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            BEAM,
            SCANN,
        ],
    },
    entry_points={"console_scripts": ["art-jax = art_jax.cli.main:main"]},
)
